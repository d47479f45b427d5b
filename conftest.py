"""What tests/ and custom_ops/ share: one thread, the choice of operators, and no test for a GPU where there is none."""

import importlib.util
import os
import sys

# Before NumPy and Paddle are imported: their thread pools read these once. One thread makes sums repeat to the last
# bit and keeps parallel test processes from fighting over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "native: fail where ernie5_ops is not installed; reference: as if it were not (auto: what there is)"
    parser.addoption("--ops", choices=("auto", "native", "reference"), default="auto", help=text)


def pytest_configure(config: pytest.Config) -> None:
    ops = config.getoption("--ops")
    if ops == "native" and importlib.util.find_spec("ernie5_ops") is None:
        raise pytest.UsageError("--ops native: ernie5_ops is not installed: pip install ./custom_ops")
    if ops == "reference":
        sys.modules["ernie5_ops"] = None  # importing it fails, so that `auto` means the definitions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, with the reason, where no CUDA device is seen."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def has_gpu() -> bool:
    """Whether Paddle sees a CUDA device; where there is no Paddle, torch, which lends the kernels' tests its memory."""
    if importlib.util.find_spec("paddle"):
        import paddle

        return paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    return importlib.util.find_spec("torch") is not None and importlib.import_module("torch").cuda.is_available()
