import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "-m",
    "configs/model/base.yaml",
    "--stage",
    "configs/stage/report_8k_32k_128k.yaml:midtrain_32k",
    "--cluster",
    "configs/cluster/h800_8.yaml",
]


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", str(ROOT / "tools/plan.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def message(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if not line.startswith("import time:")]


def test_a_search_prints_the_best_layout_the_next_and_the_refusals():
    result = plan(*SMALL, "--top", "3")
    assert result.returncode == 0, message(result)
    text = result.stdout
    assert text.startswith("base, midtrain_32k (58,720,256 tokens a step, rows of 32,768), h800_8\n")
    for part in ("parameters of a GPU", "optimizer state", "GB that a GPU sends", "pipeline bubble", "MFU", "refused:"):
        assert part in text, part
    listed = text[text.index("layout  ") :].split("\n\n")[0].splitlines()
    assert len(listed) == 1 + 3


def test_no_paddle_numpy_or_matplotlib_is_imported():
    modules = {line.rpartition("|")[2].strip() for line in plan(*SMALL).stderr.splitlines()}
    assert "ernie5.planning.search" in modules
    assert not {"paddle", "numpy", "matplotlib"} & modules


def test_one_layout_is_planned():
    result = plan(*SMALL, "--layout", "tensor=2,expert=8", "--recompute", "full")
    assert result.returncode == 0, message(result)
    assert "layout: TP2 EP8 DP4 ZeRO4 on 8 GPUs; bfloat16, recompute full" in result.stdout
    assert "refused" not in result.stdout


def test_a_layout_that_breaks_rules_is_refused_with_each_reason():
    result = plan(*SMALL, "--layout", "tensor=3,pipeline=40")
    assert result.returncode == 1
    assert "refused: TP3 PP40" in result.stdout
    assert "28 layers" in result.stdout
    assert "tensor 3 does not divide" in result.stdout


def test_a_layout_that_lacks_memory_is_shown_and_refused():
    result = plan(*SMALL, "--layout", "expert=8", "-o", "cluster.memory_gib=24.0")
    assert result.returncode == 1
    assert "memory, pipeline rank 0" in result.stdout
    assert "refused with recompute full:" in result.stdout


def test_a_cluster_that_is_too_small_has_no_layout():
    result = plan(*SMALL, "-o", "cluster.memory_gib=8.0")
    assert result.returncode == 1
    assert "no layout fits" in result.stdout


def test_overrides_reach_model_stage_and_cluster():
    changes = ["model.name=mine", "stages.1.max_seq_len=4096", "cluster.name=ours", "stages.1.batch_tokens=40960000"]
    result = plan(*SMALL, *(part for change in changes for part in ("-o", change)), "--layout", "expert=8")
    assert result.stdout.startswith("mine, midtrain_32k (40,960,000 tokens a step, rows of 4,096), ours\n")


def test_the_timeline_is_a_picture(tmp_path: Path):
    path = tmp_path / "timeline.png"
    layout = "pipeline=4,virtual_stages=2,expert=2"
    result = plan(*SMALL, "--layout", layout, "--timeline", str(path))
    assert result.returncode == 0, message(result)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "timeline of 8 of 896 microbatches" in result.stdout


BAD = {
    "no such file": (["--cluster", "configs/cluster/none.yaml"], "configs/cluster/none.yaml"),
    "no such stage": (["--stage", "configs/stage/tiny.yaml:later"], "no stage 'later'"),
    "a stage of half rows": (["-o", "stages.1.batch_tokens=32769"], "stages.1.batch_tokens is 32769"),
    "an override of something else": (["-o", "train.seed=1"], "model.*, stages.* and cluster.*"),
    "an unknown key": (["-o", "cluster.gpu=8"], "cluster.gpu"),
    "an unknown degree": (["--layout", "tensors=2"], "no degree 'tensors'"),
    "not a layout": (["--layout", "tensor=-1"], "must be a whole number above 0"),
    "a share above one": (["--overlap", "1.5"], "not between 0 and 1"),
    "none to list": (["--top", "0"], "not a whole number above 0"),
    "float8 where there is none": (["--precision", "float8", "-o", "cluster.fp8_tflops=0.0"], "no float8 products"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_2_and_one_sentence(name: str):
    arguments, words = BAD[name]
    result = plan(*SMALL, *arguments)
    assert result.returncode == 2
    assert words in message(result)[-1]
    assert "Traceback" not in result.stderr
    assert not result.stdout
