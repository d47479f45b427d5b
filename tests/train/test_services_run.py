"""Whole runs whose media are encoded by services: the losses of runs that encode by themselves, to the last bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="services need ray: make test-services")
import ray

from ernie5.config.load import load_config
from ernie5.errors import UserError
from ernie5.inference.show import show
from ernie5.services.pool import EncodingPool
from ernie5.train.run import run
from tests.parallel.media_run import write_run
from tests.runs import ROOT, TINY, keep_gemm_kernels, losses, overrides

pytestmark = [pytest.mark.slow, pytest.mark.multiproc]
STEPS = "train.max_steps=6"
SWITCHES = "stages.0.vision.switches=[{step: 0, bits: 4}, {step: 3, bits: 6}]"
SERVICES = ("services.num_workers=1", "services.ahead=2")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def expected(run_file) -> list[tuple]:
    """Losses of the run without services."""
    return train(run_file, run_file.parent / "inline")


@pytest.fixture(autouse=True)
def same_kernels(monkeypatch) -> None:
    keep_gemm_kernels(monkeypatch)


def train(run_file: Path, output_dir: Path, *settings: str, resume: str = "", steps: str = STEPS) -> list[tuple]:
    run(load_config(run_file, [SWITCHES, steps, f"train.output_dir={output_dir}", *settings]), resume, show)
    return losses(output_dir)


def test_losses_are_those_of_the_run_without_services_even_if_a_worker_is_killed(
    run_file, expected, tmp_path, monkeypatch
):
    pools, ask = [], EncodingPool.submit

    def submit(self, request):
        pools.append(self)
        if len(pools) == 25:  # in the third step or so
            call = self.workers[0].actor.__ray_call__
            os.kill(ray.get(call.remote(lambda _: os.getpid())), signal.SIGKILL)
        return ask(self, request)

    monkeypatch.setattr(EncodingPool, "submit", submit)
    assert train(run_file, tmp_path / "run", *SERVICES) == expected
    assert pools[0].use.replaced == 1 and pools[0].use.requests == len(pools) > 30
    assert not ray.is_initialized()


def test_resumed_run_loses_and_doubles_nothing_that_was_read_ahead(run_file, expected, tmp_path):
    assert train(run_file, tmp_path, *SERVICES, steps="train.max_steps=2") == expected[:2]
    assert train(run_file, tmp_path, *SERVICES, resume="auto") == expected


@pytest.mark.parametrize("layout", [[], ["parallel.tensor=2"]], ids=["data", "the same rows"])
def test_two_processes_share_one_ray(run_file, layout, tmp_path):
    for name, settings in (("inline", ()), ("services", SERVICES)):
        options = overrides([SWITCHES, "train.max_steps=3", f"train.output_dir={tmp_path / name}", *settings, *layout])
        command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(run_file), *options]
        done = subprocess.run(
            [*command, "--nproc_per_node", "2"], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "services") == losses(tmp_path / "inline") != []


def test_model_without_media_is_refused_services():
    with pytest.raises(UserError, match="services.num_workers is 1, but the model takes neither pictures nor sounds"):
        load_config(TINY, ["services.num_workers=1"])
