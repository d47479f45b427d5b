"""A modality's model is trained as the unified one was, on its own samples; differences come with their errors."""

import argparse
import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from ernie5.config.load import load_config
from ernie5.errors import UserError
from ernie5.train.evaluate import Score
from ernie5.train.schedule import steps_left

ROOT = Path(__file__).parents[2]
RUN = ROOT / "configs" / "run" / "digits.yaml"
STAGE = load_config(RUN).stages[0]


@pytest.fixture
def unification(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("unification")


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("unification_page")


def line(*types: str) -> str:
    return json.dumps({"segments": [{"type": kind} for kind in types]}) + "\n"


LINES = [line("image", "text"), line("audio", "text"), line("text", "text"), line("audio", "text", "image")]


def test_manifests_hold_the_lines_of_one_modality_each(unification, tmp_path: Path):
    lines = [*LINES, line("text", "video")]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    paths = unification.split_by_modality(tmp_path / "train.jsonl")
    assert {name: path.read_text() for name, path in paths.items()} == {
        "vision": lines[0] + lines[4],
        "speech": lines[1],
        "text": lines[2],
    }
    assert {path.parent for path in paths.values()} == {tmp_path}  # where their media are found


def test_tasks_have_the_modality_of_their_samples(unification, tmp_path: Path):
    tasks = ["read", "listen", "add", "draw_heard"]
    (tmp_path / "facts").mkdir()
    (tmp_path / "test.jsonl").write_text("".join(LINES))
    (tmp_path / "facts" / "test.jsonl").write_text("".join(json.dumps({"task": task}) + "\n" for task in tasks))
    expected = {"read": "vision", "listen": "speech", "add": "text", "draw_heard": "mixed"}
    assert unification.modalities_of_tasks(tmp_path) == expected


@pytest.mark.parametrize(("share", "longest"), [(0.76, 120), (0.15, 60)])
def test_a_share_of_the_tokens_is_seen_in_as_many_steps(unification, share: float, longest: int):
    small = unification.shrunk(STAGE, unification.Part(share, longest), processes=2)
    assert steps_left(small, 0) == pytest.approx(steps_left(STAGE, 0), rel=0.005)
    assert small.num_tokens == pytest.approx(share * STAGE.num_tokens, rel=0.005)
    assert small.warmup_steps == STAGE.warmup_steps
    assert small.batch_tokens % (2 * small.max_seq_len) == 0 and small.max_seq_len <= STAGE.max_seq_len


def test_a_tiny_share_has_fewer_steps_and_a_shorter_warm_up(unification):
    small = unification.shrunk(STAGE, unification.Part(0.004, 20), processes=2)
    assert (small.max_seq_len, small.batch_tokens) == (80, 160)
    assert small.num_tokens == pytest.approx(0.004 * STAGE.num_tokens, abs=80)
    assert small.warmup_steps / steps_left(small, 0) == pytest.approx(
        STAGE.warmup_steps / steps_left(STAGE, 0), abs=3e-3
    )


def test_a_ramp_of_batches_is_made_smaller_too(unification):
    ramped = dataclasses.replace(STAGE, batch_start_tokens=2048, batch_ramp_tokens=1_000_000)
    small = unification.shrunk(ramped, unification.Part(0.5, 100), processes=2)
    assert small.batch_start_tokens == 1024 and small.batch_ramp_tokens == 500_000
    assert steps_left(small, 0) == pytest.approx(steps_left(ramped, 0), rel=0.01)


@pytest.mark.parametrize("modality, towers", [("vision", (True, False)), ("speech", (False, True)), ("text", ())])
def test_a_modality_alone_has_its_tower_and_the_backbone(unification, tmp_path: Path, modality: str, towers: tuple):
    unified = load_config(RUN)
    (tmp_path / "vision_tokenizers" / "010_bits").mkdir(parents=True)
    paths = {split: tmp_path / f"{modality}_{split}.jsonl" for split in ("train", "validation")}
    options = unification.common_options(tmp_path, paths, unified, unification.TOWERS[modality])
    stages = (unification.shrunk(STAGE, unification.Part(0.3, 100), 2),)
    options |= unification.stage_options(stages)
    config = load_config(RUN, [f"{key}={value}" for key, value in options.items()])
    assert (config.model.vision is not None, config.model.audio is not None) == (towers or (False, False))
    assert dataclasses.replace(config.model, vision=None, audio=None) == dataclasses.replace(
        unified.model, vision=None, audio=None
    )
    assert config.stages == stages and config.tokenizer.path == str(tmp_path / "tokenizer")
    assert [source.path for source in config.data.train] == [str(paths["train"])]
    assert config.train.seed == unified.train.seed and config.optimizer == unified.optimizer


def fake_training(unification, monkeypatch, complete: bool) -> list[tuple]:
    """Calls of tools, which leave what a training leaves."""
    calls = []

    def tool(*words: object) -> None:
        calls.append(words)
        folder = Path(next(str(word) for word in words if "output_dir=" in str(word)).partition("=")[2])
        folder.mkdir(exist_ok=True)
        (folder / "checkpoints" / "step_3").mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 3, "complete": complete}) + "\n")

    monkeypatch.setattr(unification, "tool", tool)
    return calls


def options(*overrides: str) -> argparse.Namespace:
    return argparse.Namespace(nproc_per_node=1, opt=list(overrides))


def test_a_finished_training_is_not_done_again(unification, monkeypatch, tmp_path: Path):
    calls = fake_training(unification, monkeypatch, complete=True)
    for _ in range(2):
        unification.train(tmp_path / "text", tmp_path, {"a": 1}, options())
    assert len(calls) == 1
    with pytest.raises(UserError, match="other settings"):
        unification.train(tmp_path / "text", tmp_path, {"a": 1}, options("train.max_steps=3"))


def test_an_interrupted_training_goes_on(unification, monkeypatch, tmp_path: Path):
    calls = fake_training(unification, monkeypatch, complete=False)
    for _ in range(2):
        with pytest.raises(SystemExit, match="start this program again"):
            unification.train(tmp_path / "text", tmp_path, {}, options())
    assert [("--resume" in words) for words in calls] == [False, True]


def score(right: int, cases: int = 100) -> dict:
    return {"share": right / cases, "cases": cases}


def contestants(pages, tmp_path: Path) -> list:
    scores = {
        "": {"read": score(90), "animate: speed": score(50), "listen": score(70), "say_seen": score(80)},
        "vision": {"read": score(85), "animate: speed": score(52), "add": score(0)},
        "speech": {"listen": score(30)},
    }
    names = {"": "unified", "vision": "vision alone", "speech": "speech alone"}
    made = [pages.Contestant(names[m], m, tmp_path, None, (STAGE,), scores[m]) for m in scores]
    return [*made, pages.Contestant("balance none", "", tmp_path, None, (STAGE,), {"read": score(90)})]


MODALITIES = {"read": "vision", "animate": "vision", "listen": "speech", "say_seen": "mixed"}


def test_the_table_puts_each_score_beside_its_modality_alone(pages, tmp_path: Path):
    unified, vision, speech, balance = contestants(pages, tmp_path)
    singles = {"vision": vision, "speech": speech}
    rows = pages.score_table(unified, singles, [balance], MODALITIES).splitlines()[2:]
    assert rows[0] == "| read | vision | 100 | 90.0% | 85.0% | +5.0 ± 4.7 | 90.0% | +0.0 ± 4.2 |"
    assert rows[1].startswith("| animate: speed | vision | 100 | 50.0% | 52.0% | -2.0 ± 7.1 |")
    assert rows[3].startswith("| say_seen | mixed | 100 | 80.0% | only the unified model |")


def test_the_conclusion_counts_what_two_standard_errors_do_not_explain(pages, tmp_path: Path):
    unified, vision, speech, balance = contestants(pages, tmp_path)
    singles = {"vision": vision, "speech": speech}
    found = dict(pages.comparisons(unified, singles, [balance], MODALITIES))
    text = pages.conclusion("Here", found["Beside the models of one modality"])
    assert "in 1 of 3 scores and worse in 0" in text
    assert "largest gain is listen (+40.0 ± 6.5 points)" in text
    assert "largest loss animate: speed (-2.0 ± 7.1 points)" in text
    assert "gains nowhere, it loses nowhere" in pages.conclusion("Here", found["Beside balance none"])


def test_losses_stand_beside_those_of_the_modality_alone(pages, tmp_path: Path):
    unified, vision, _, balance = contestants(pages, tmp_path)
    made = [
        unified._replace(losses={"vision": Score(0.1, None, 0.5)}),
        vision._replace(losses={"vision": Score(0.2, None, 0.6)}),
        balance._replace(losses={"vision": Score(0.3, None, 0.7)}),
    ]
    header, _, *rows = pages.loss_table(made).splitlines()
    assert header == "| samples | loss | unified | alone | balance none |"
    assert rows == [
        "| vision | text, nats a token | 0.100 | 0.200 | 0.300 |",
        "| vision | vision, nats a bit | 0.500 | 0.600 | 0.700 |",
    ]


@pytest.mark.parametrize("change", [{}, {"num": 2}, {"judge": "elsewhere"}])
def test_scores_are_taken_again_only_for_other_settings(unification, tmp_path: Path, change: dict):
    (tmp_path / "model.safetensors").touch()
    settings = {"num": 0, "judge": None, "world": "w", "seed": 0}
    (tmp_path / "scores.json").write_text(json.dumps({"settings": settings}))
    wanted = {"num": 0, "judge": None, "world": "w"} | change
    assert unification.is_fresh(tmp_path / "scores.json", tmp_path, wanted) == (not change)
