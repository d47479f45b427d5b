"""The CUDA kernels on a machine without a GPU: their logic, emulated on the CPU, and what nvcc says of them.

The emulation (common/cuda_emulation.h) runs the kernels' own sources: it takes the lanes of a warp and the warps of a
block in any order, so a barrier that is missing shows. What only a GPU can show is left to capi_test.py.
"""

import os
import re
import shutil

import numpy as np
import pytest

from custom_ops import build_capi, capi_checks
from custom_ops.capi_memory import Device, rounded, to_bfloat16

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="needs a C++ compiler"
)
# (seed of the order or None for theirs, whether asynchronous copies happen at once)
SCHEDULES = [(None, False), ("1", False), ("2", True)]
COOPERATING = [
    "rms_norm[rows2-hidden9000-bfloat16-addFalse]",
    "router[tokens77-experts384-top_k8-softmax-tiesFalse-removed0]",
    "sort[tokens1500-experts7-top_k2-skewed-alignment16]",
    "cross_entropy[rows7-vocab5000-chunk2048-bfloat16]",
    "attention[batch2-queries190-keys190-heads4-kv_heads2-head_dim64-documents]",
    "attention[batch2-queries130-keys130-heads2-kv_heads1-head_dim128-holes]",
    "expert_ffn[tokens70-experts5-top_k2-hidden72-ffn136-skewed]",
]
CUDA_ERRORS_WITHOUT_A_GPU = {35, 100, 999}  # insufficient driver, no device, unknown


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> Device:
    library = tmp_path_factory.mktemp("emulated") / "libe5_emulated.so"
    assert "warning" not in build_capi.build(library, emulated=True)
    return Device(library, on_gpu=False)


def slow_if(name: str):
    return pytest.param(name, marks=pytest.mark.slow) if "experts384-top_k8-hidden24" in name else name


@pytest.mark.parametrize("name", [slow_if(name) for name in capi_checks.CASES])
def test_emulated_it_is_the_float64_computation(emulated, name):
    capi_checks.CASES[name](emulated)


@pytest.mark.parametrize("name", COOPERATING)
@pytest.mark.parametrize(("seed", "eager"), SCHEDULES[1:])
def test_the_order_of_the_threads_does_not_matter(emulated, monkeypatch, name, seed, eager):
    monkeypatch.setenv("ERNIE5_EMULATION_SEED", seed)
    if eager:
        monkeypatch.setenv("ERNIE5_EMULATION_EAGER", "1")
    capi_checks.CASES[name](emulated)


def test_the_same_routing_gives_the_same_bits(emulated, monkeypatch):
    random = np.random.default_rng(0)
    logits = emulated.array(random.normal(size=(50, 2048)), "bfloat16")
    weight, inverse = emulated.array(np.ones(2048), "bfloat16"), emulated.array(np.ones(50), "float32")
    workspace = emulated.empty(emulated.size("e5_rms_norm_workspace", 50, 2048) // 4)
    found = []
    for seed, _ in SCHEDULES:
        if seed:
            monkeypatch.setenv("ERNIE5_EMULATION_SEED", seed)
        grads = emulated.empty(50, 2048, dtype="bfloat16"), emulated.empty(2048, dtype="bfloat16")
        emulated.run("e5_rms_norm_backward", 2, logits, weight, inverse, logits, None, 50, 2048, *grads, workspace)
        found.append([one.numpy() for one in grads])
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("e5_swiglu_forward", (7, None, None, None, 1, 8, 8, None)),  # no such dtype
        ("e5_router_forward", (None, None, None, 1, 8, 9, 1, 1.0, None, None, None, None)),  # more than there are
        ("e5_sort_by_expert", (None, 8, 1, 2000, 1, 8, *[None] * 6)),  # too many experts
        ("e5_sort_by_expert", (None, 8, 1, 4, 16, 8, *[None] * 6)),  # no room for the alignment
        ("e5_grouped_product", (0, None, None, None, None, 4, 0, 12, 8, None)),  # depth no multiple of 8
        (
            "e5_attention_forward",
            (None, None, None, None, 1, 2, 0, None, 1, 1, 1, 1, 1, 64, 1.0, None, None),
        ),  # null
        (
            "e5_attention_forward",
            (None, None, None, None, 1, 0, 1, None, 1, 1, 1, 1, 1, 96, 1.0, None, None),
        ),  # head_dim
    ],
)
def test_what_a_kernel_cannot_do_it_refuses(emulated, function, arguments):
    assert emulated.launch(function, *arguments) == 1  # cudaErrorInvalidValue


def test_bfloat16_is_rounded_to_nearest_even():
    assert to_bfloat16(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [0x3F80, 0x3F80, 0x3F82]
    assert rounded(np.array([1 + 2**-7]), "bfloat16").tolist() == [1 + 2**-7]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Device, str]:
    """The library for a GPU, and what ptxas says of its kernels."""
    if build_capi.find_nvcc() is None:
        pytest.skip("needs nvcc")
    library = tmp_path_factory.mktemp("cuda") / "libe5_kernels.so"
    said = build_capi.build(library)
    return Device(library, on_gpu=False), said


@pytest.mark.slow
def test_no_kernel_spills_registers_for_either_architecture(compiled):
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", compiled[1])
    assert len(spills) > 100
    assert set(spills) == {("0", "0")}


@pytest.mark.slow
def test_nvcc_has_no_warnings(compiled):
    assert "warning" not in compiled[1]


@pytest.mark.slow
def test_a_launch_without_a_gpu_returns_an_error(compiled):
    device, _ = compiled
    assert device.library.e5_abi_version() == 2
    values = device.array(np.ones([4, 16]), "float32")
    out = device.empty(4, 8)
    code = device.launch("e5_swiglu_forward", 0, values, values.at(8), None, 4, 8, 16, out)
    if code == 0:
        pytest.skip("there is a GPU here")
    assert code in CUDA_ERRORS_WITHOUT_A_GPU
