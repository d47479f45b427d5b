"""tools/evaluate.py: what it refuses before it computes anything, and a whole evaluation."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ernie5.config.load import load_model_config
from ernie5.config.schema import ResolutionConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import WorldConfig, make_world
from ernie5.model.folder import VISION_TOKENIZER, save_pretrained
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from tests.vision_models import BITS, stirred, text_tokenizer, vision_config, vision_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--num", "-1"), "--num is -1"),
        (("--seed", "-1"), "--seed and --threads"),
        (("--threads", "-3"), "--seed and --threads"),
        (("--temperature", "nan"), "--temperature must be"),
        (("--top-p", "7"), "--top-p above 0"),
        (("--guidance", "nan", "1"), "--guidance must be"),
        (("--guidance", "-1", "1"), "--guidance must be"),
        (("--code-temperature", "-1"), "--code-temperature must be"),
        (("--code-top-p", "0"), "--code-top-p above 0"),
        (("--code-guidance", "nan"), "--code-guidance must be"),
        (("--run", "nowhere"), "--run nowhere: is no folder"),
        (("--json", "README.md/x.json"), "README.md: "),
        (("--sheets", "README.md"), "README.md: "),
        ((), "is no digit world: make one with tools/make_digits.py"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, options: tuple[str, ...], message: str):
    command = [sys.executable, "tools/evaluate.py", "no_model", "--world", str(tmp_path), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def write_model(folder: Path) -> Path:
    """A small model of random weights that draws 16 x 16 pixels, with its tokenizers."""
    square = ResolutionConfig(height=16, width=16, scales=((1, 1), (2, 2), (8, 8)))
    vision = dataclasses.replace(vision_config(), resolutions=(square,))
    model = vision_model(load_model_config(ROOT / "configs/model/tiny.yaml"), vision)
    save_pretrained(model, folder)
    text_tokenizer().save_pretrained(folder)
    config = VisionTokenizerConfig(encoder=vision.encoder, bits=BITS, resolutions=vision.resolutions)
    stirred(VisionTokenizer(config)).save_pretrained(folder / VISION_TOKENIZER)
    return folder


def test_a_model_is_scored_and_shown_in_its_run(tmp_path: Path):
    model = write_model(tmp_path / "model")
    unspoken = tuple((name, task.weight) for name, task in TASKS.items() if not task.is_spoken)
    make_world(tmp_path / "world", WorldConfig(num_train=1, num_validation=1, num_test=18, weights=unspoken))
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "run", "device": "cpu"}) + "\n", encoding="utf-8")
    outputs = ("--json", str(tmp_path / "new" / "scores.json"), "--sheets", str(tmp_path / "drawn"), "--run", str(run))
    command = [sys.executable, "tools/evaluate.py", str(model), "--world", str(tmp_path / "world"), *outputs]
    result = subprocess.run([*command, "--threads", "1"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "left out: 1 samples of a modality or a size that the model does not have" in result.stdout
    scores = json.loads((tmp_path / "new" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["draw"]["cases"] > 0 and scores["animate: readable"]["cases"] > 0 and scores["read"]["cases"] > 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} >= {"draw_16x16.png", "animate_16x16.gif"}
    assert "The digit world" in (run / "report.html").read_text(encoding="utf-8")
