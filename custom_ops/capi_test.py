"""The CUDA kernels through their C interface on a GPU, without Paddle: torch lends the memory.

    python -m custom_ops.build_capi && python -m custom_ops.capi_test [LIBRARY]

or, with a library built for the occasion, `pytest -m gpu custom_ops/capi_test.py`.

The checks, their cases and tolerances are those of capi_checks.py, which test_cuda_host.py runs emulated.
"""

import argparse
import sys
from pathlib import Path

import pytest

from custom_ops import build_capi, capi_checks
from custom_ops.capi_memory import Device


def has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    if not has_gpu():
        pytest.skip("needs a CUDA device and torch")
    library = tmp_path_factory.mktemp("kernels") / "libe5_kernels.so"
    build_capi.build(library, ["90"])
    return Device(library, on_gpu=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", capi_checks.CASES)
def test_on_a_gpu_it_is_the_float64_computation(device, name):
    capi_checks.CASES[name](device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?", type=Path, default=build_capi.LIBRARY, help="default %(default)s")
    return min(capi_checks.run_all(Device(parser.parse_args().library, on_gpu=True)), 1)


if __name__ == "__main__":
    sys.exit(main())
