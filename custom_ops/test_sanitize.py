"""The CPU kernels under the sanitizers, and that these find what was planted for them."""

import shutil
from pathlib import Path

import pytest

from custom_ops import sanitize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(sanitize.CXX[0]) is None, reason="needs a C++ compiler"),
]
OPERATORS = [path.parent.name for path in sanitize.sources() if path.stem == "fuzz"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    return sanitize.build(tmp_path_factory.mktemp("sanitized"))


@pytest.mark.parametrize("operator", [*OPERATORS, "gemm_bf16"])
def test_nothing_is_found(driver, operator):
    result = sanitize.run(driver, rounds=60, only=operator)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("operator", ["expert_ffn", "cross_entropy", "paged_decoder_layers"])
def test_nothing_is_found_with_products_in_bfloat16(driver, monkeypatch, operator):
    monkeypatch.setenv("ERNIE5_BF16_PRODUCTS", "1")
    test_nothing_is_found(driver, operator)


@pytest.mark.parametrize(
    ("mistake", "found"), [("overrun", "heap-buffer-overflow"), ("overflow", "signed integer overflow")]
)
def test_a_mistake_is_found(driver, mistake, found):
    result = sanitize.run(driver, rounds=1, seed=7, only=mistake)
    assert result.returncode
    assert found in result.stdout
    assert f"in {mistake}, --seed 7" in result.stdout


def test_every_operator_with_a_kernel_is_called():
    assert set(OPERATORS) == {path.parent.name for path in sanitize.HERE.glob("*/kernel_cpu.cc")}
