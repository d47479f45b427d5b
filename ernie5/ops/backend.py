"""Which code runs the operators: what custom_ops/ compiled (native), or their definitions in plain Paddle (reference).

Paddle's interface to compiled operators that stand outside it is used here alone (tests/ops/test_backend.py).
"""

import contextlib
import ctypes
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

from ernie5.errors import UserError

PREFIX = "ernie5_"
INTEGERS = (paddle.int32, paddle.int64)
INSTALL = "pip install ./custom_ops"


class Dtypes(NamedTuple):
    """What an operator's kernels take; nothing: there are none."""

    cpu: tuple[paddle.dtype, ...]
    gpu: tuple[paddle.dtype, ...] = ()


CPU_FLOATS = (paddle.float32, paddle.bfloat16, paddle.float64)
FLOATS = Dtypes(CPU_FLOATS, (paddle.float32, paddle.float16, paddle.bfloat16))


class _Backend:
    """The choice of this process."""

    mode = ""  # "native" or "reference"; empty: not chosen yet
    why = ""  # not native
    operators: frozenset[str] = frozenset()  # registered with Paddle; that can be done once a process
    bf16_products: bool = False
    emulates_gpu: bool = False  # kernels for GPUs, run on the CPU: custom_ops/test_cuda_binding.py


_backend = _Backend()


def choose(mode: str, bf16_products: bool = False) -> None:
    """auto: native where operators are installed; native: UserError where they are not; reference: the definitions.

    bf16_products: float32 products are done in bfloat16, sums in float32, by the compiled operators; UserError where
    they, or the processor, cannot.
    """
    why = "ops.backend is reference" if mode == "reference" else _register()
    if why and mode == "native":
        raise UserError(f"ops.backend is native: {why}")
    if bf16_products and why:
        raise UserError(f"ops.bf16_products is true, which only compiled operators do: {why}")
    if bf16_products and on_gpu():
        raise UserError("ops.bf16_products is true, which is for CPUs: set it to false (a GPU has train.precision)")
    _set_bf16_products(bf16_products)
    _backend.mode, _backend.why = ("reference", why) if why else ("native", "")


def described() -> str:
    """The choice in words, with its reason where it is the slower one."""
    is_native("")  # chooses where nobody has
    if _backend.bf16_products:
        return f"{_backend.mode}, products in bfloat16"
    return f"{_backend.mode} ({_backend.why})" if _backend.why else _backend.mode


def bf16_products() -> bool:
    """Whether compiled operators round the factors of float32 products to bfloat16."""
    return _backend.bf16_products


def is_native(operator: str) -> bool:
    """Whether `call` may be used for this operator; the first question chooses (auto) where nobody has."""
    if not _backend.mode:
        choose("auto")
    return _backend.mode == "native" and PREFIX + operator in _backend.operators


def takes(operator: str, dtypes: Dtypes, *tensors: paddle.Tensor) -> bool:
    """Whether `call` may be used for these, which are of one dtype, where this process computes."""
    if not is_native(operator):
        return False
    dtype = tensors[0].dtype
    fits = dtype in (dtypes.gpu if on_gpu() else dtypes.cpu)
    return fits and all(tensor.dtype == dtype for tensor in tensors[1:])


def on_gpu() -> bool:
    """Whether Paddle computes on a GPU, so that an operator's kernels for it count."""
    return _backend.emulates_gpu or (paddle.is_compiled_with_cuda() and paddle.get_device().startswith("gpu"))


@contextlib.contextmanager
def using(mode: str, bf16_products: bool = False) -> Iterator[None]:
    """The choice for as long as the block runs, as in tests and in an export that must run anywhere."""
    before = _backend.mode, _backend.why
    bf16_before = _backend.bf16_products
    choose(mode, bf16_products)
    try:
        yield
    finally:
        _set_bf16_products(bf16_before)
        _backend.mode, _backend.why = before


def call(operator: str, inputs: Sequence[paddle.Tensor | list[paddle.Tensor]], *attributes: Any) -> list[paddle.Tensor]:
    """The outputs of a compiled operator, with its gradients; in dygraph and under to_static.

    An input may be a list of tensors, of which none is an integer; an output that is one comes as the list itself.
    Integers go in and come out without gradients: Paddle takes them for differentiable, and as the operator has no
    gradient for them, it would silently give none to anything below.
    """
    with_gradients = paddle.is_grad_enabled()  # without, nobody is misled, and a decoding step asks for much
    if with_gradients:
        inputs = [_without_gradient(tensor) for tensor in inputs]
    outputs = paddle._C_ops._run_custom_op(PREFIX + operator, *inputs, *attributes)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if with_gradients:
        for tensor in outputs:
            if tensor.dtype in INTEGERS:
                tensor.stop_gradient = True
    return outputs


def _without_gradient(tensor: paddle.Tensor | list[paddle.Tensor]) -> paddle.Tensor | list[paddle.Tensor]:
    return tensor.detach() if not isinstance(tensor, list) and tensor.dtype in INTEGERS else tensor


def _set_bf16_products(on: bool) -> None:
    """Tells the library, which Paddle has loaded, as its kernels ask it."""
    if on == _backend.bf16_products:
        return
    library = ctypes.CDLL(str(importlib.import_module("ernie5_ops").LIBRARY))
    if not library.ernie5_set_bf16_products(int(on)):
        raise UserError("ops.bf16_products is true, but ernie5_ops was compiled without AVX512-BF16: set it to false")
    _backend.bf16_products = on


def _register() -> str:
    """Registers the compiled operators with Paddle, once; returns why that cannot be, or nothing."""
    if _backend.operators:
        return ""
    try:
        package = importlib.import_module("ernie5_ops")
        about = package.build()
    except (ImportError, AttributeError, OSError, ValueError):
        return f"ernie5_ops is not installed: {INSTALL}"
    if about["paddle"] != paddle.__version__:
        return f"ernie5_ops was compiled for Paddle {about['paddle']}, this is {paddle.__version__}: {INSTALL}"
    if paddle.is_compiled_with_cuda() and not about["cuda"]:
        return "ernie5_ops has no kernels for CUDA, for which this Paddle is built"
    lacking = set(about["cpu_flags"]) - processor_flags()
    if lacking:
        return f"ernie5_ops was compiled for another processor (with {', '.join(sorted(lacking))}): {INSTALL}"
    names = paddle.utils.cpp_extension.load_op_meta_info_and_register_op(str(package.LIBRARY))
    _backend.operators = frozenset(names)
    _backend.emulates_gpu = about["cuda"] == "emulated"
    return ""


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the processor can do, in the words of /proc/cpuinfo; empty where there is none."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
