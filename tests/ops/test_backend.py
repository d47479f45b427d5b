"""The choice between compiled operators and their definitions. It needs no compiled operators."""

import json
import sys
import types
from types import SimpleNamespace

import paddle
import pytest

from ernie5.errors import UserError
from ernie5.ops import backend


@pytest.fixture
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(backend, "_backend", backend._Backend())


@pytest.fixture
def package(monkeypatch, tmp_path, nothing_chosen):
    """An installed ernie5_ops whose build.json can be written; nothing is compiled."""
    module = types.ModuleType("ernie5_ops")
    about = {"paddle": paddle.__version__, "cuda": False, "march": "native", "cpu_flags": []}
    module.about = about
    module.build = lambda: json.loads(json.dumps(about))
    module.LIBRARY = tmp_path / "libernie5_ops.so"
    monkeypatch.setitem(sys.modules, "ernie5_ops", module)
    return module


@pytest.fixture
def registered(monkeypatch):
    """The libraries that Paddle was asked to register."""
    paths = []

    def register(path):
        paths.append(path)
        return ["ernie5_rms_norm"]

    monkeypatch.setattr(paddle.utils.cpp_extension, "load_op_meta_info_and_register_op", register)
    return paths


def test_auto_takes_what_is_installed_and_registers_it_once(package, registered):
    assert backend.is_native("rms_norm") and not backend.is_native("router")
    assert backend.described() == "native"
    backend.choose("reference")
    assert not backend.is_native("rms_norm")
    assert backend.described() == "reference (ops.backend is reference)"
    backend.choose("native")
    assert backend.is_native("rms_norm")
    assert registered == [str(package.LIBRARY)]


def test_without_the_package_auto_takes_the_definitions_and_says_why(monkeypatch, nothing_chosen):
    monkeypatch.setitem(sys.modules, "ernie5_ops", None)
    assert backend.described() == "reference (ernie5_ops is not installed: pip install ./custom_ops)"
    assert not backend.is_native("rms_norm")
    with pytest.raises(UserError, match="^ops.backend is native: ernie5_ops is not installed: pip install"):
        backend.choose("native")


def test_a_library_of_another_paddle_is_not_loaded(package, registered):
    package.about["paddle"] = "2.0.0"
    with pytest.raises(UserError, match="compiled for Paddle 2.0.0, this is"):
        backend.choose("native")
    assert registered == []


def test_a_library_without_cuda_is_not_loaded_into_a_paddle_with_it(package, registered, monkeypatch):
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    with pytest.raises(UserError, match="has no kernels for CUDA"):
        backend.choose("native")
    package.about["cuda"] = True
    backend.choose("native")
    assert len(registered) == 1


def test_a_library_of_another_processor_is_not_loaded(package, registered):
    package.about["cpu_flags"] = ["avx9000"]
    with pytest.raises(UserError, match=r"another processor \(with avx9000\)"):
        backend.choose("native")
    assert registered == []


def test_products_in_bfloat16_need_the_operators(monkeypatch, nothing_chosen):
    monkeypatch.setitem(sys.modules, "ernie5_ops", None)
    with pytest.raises(
        UserError, match="^ops.bf16_products is true, which only compiled operators do: ernie5_ops is not"
    ):
        backend.choose("auto", bf16_products=True)
    with pytest.raises(UserError, match="^ops.bf16_products is true, .*: ops.backend is reference$"):
        backend.choose("reference", bf16_products=True)
    assert not backend.bf16_products()


def test_products_in_bfloat16_are_the_librarys_to_refuse(package, registered, monkeypatch):
    told = []

    def load(path):
        assert path == str(package.LIBRARY)
        return SimpleNamespace(ernie5_set_bf16_products=lambda on: told.append(on) or answer)

    monkeypatch.setattr(backend.ctypes, "CDLL", load)
    answer = 0
    with pytest.raises(UserError, match="compiled without AVX512-BF16: set it to false"):
        backend.choose("native", bf16_products=True)
    assert not backend.bf16_products()
    answer = 1
    with backend.using("native", bf16_products=True):
        assert backend.bf16_products() and backend.described() == "native, products in bfloat16"
    assert not backend.bf16_products() and told == [1, 1, 0]


def test_a_block_has_its_own_choice(package, registered):
    backend.choose("native")
    with backend.using("reference"):
        assert not backend.is_native("rms_norm")
    assert backend.is_native("rms_norm")
    with pytest.raises(ZeroDivisionError), backend.using("reference"):
        raise ZeroDivisionError
    assert backend.is_native("rms_norm")


def test_integers_go_in_and_come_out_without_gradients(monkeypatch):
    seen = []

    def run(name, *arguments):
        seen.extend([name, *arguments])
        ids = paddle.zeros([2], "int64")
        ids.stop_gradient = False
        return [paddle.ones([2]), ids]

    monkeypatch.setattr(paddle._C_ops, "_run_custom_op", run)
    index, rows = paddle.ones([2], "int64"), paddle.ones([2])
    index.stop_gradient = rows.stop_gradient = False
    _, ids = backend.call("permute", [rows, index], 3)
    assert seen[0] == "ernie5_permute" and seen[3] == 3
    assert seen[1] is rows and seen[2].stop_gradient
    assert ids.stop_gradient


def test_paddle_has_what_the_operators_are_called_by():
    assert callable(paddle._C_ops._run_custom_op)
    assert callable(paddle.utils.cpp_extension.load_op_meta_info_and_register_op)


def test_flags_of_a_processor_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 fma\n\nprocessor : 1\nflags : fpu\n")
    assert backend.processor_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "fma"}
    assert backend.processor_flags(tmp_path / "nothing") == set()
