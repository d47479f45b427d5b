"""tools/evaluate.py: what it refuses before it computes anything, and a whole evaluation."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie5.analysis.spoken_digits import MelTrainConfig, SpeechJudge
from ernie5.config.load import load_model_config
from ernie5.config.schema import ResolutionConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.data.digits.bank import SAMPLE_RATE, SpeechConfig
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import WorldConfig, make_world
from ernie5.data.sounds import read_sound
from ernie5.model.folder import VISION_TOKENIZER, save_pretrained
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from tests.audio_models import FRAME, RATE, audio_model, audio_tokenizer, speaker_encoder
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


@pytest.fixture(scope="module")
def spoken_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a sample of each task."""
    weights = tuple((name, 1) for name in TASKS)
    speech = SpeechConfig(renditions=1, speakers=1)
    folder = tmp_path_factory.mktemp("spoken") / "world"
    make_world(folder, WorldConfig(num_train=1, num_validation=1, num_test=len(TASKS), weights=weights, speech=speech))
    return folder


def test_what_is_said_is_judged_and_can_be_played(tmp_path: Path, spoken_world: Path):
    parts = {
        "tokenizer_dir": text_tokenizer(),
        "audio_tokenizer_dir": audio_tokenizer(),
        "speaker_encoder_dir": speaker_encoder(),
    }
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    text_model = load_model_config(ROOT / "configs/model/tiny.yaml")
    model = tmp_path / "model"
    save_pretrained(audio_model(text_model), model, **{name: tmp_path / name for name in parts})
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE // 2).astype(np.float32)
    training = MelTrainConfig(steps=1, batch_size=1, learning_rate=1e-3, dropout=0.0)
    SpeechJudge.train([(noise, "7")], 0, training).save(tmp_path / "judge")

    outputs = ("--json", str(tmp_path / "scores.json"), "--sheets", str(tmp_path / "made"))
    command = [sys.executable, "tools/evaluate.py", str(model), "--world", str(spoken_world), *outputs]
    command += ["--judge", str(tmp_path / "judge"), "--threads", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    spoken = {name for name in scores["scores"] if scores["scores"][name]["cases"]}
    assert {"listen", "speak", "speak_two"} <= spoken
    assert not spoken & {"read", "draw", "speak_seen", "draw_heard"}  # it does not see
    assert 0 <= scores["digit_errors_of_speech"] and "digit errors of speech" in result.stdout
    made = sorted((tmp_path / "made").iterdir())
    assert {path.name for path in made} == {"speak_1.wav", "speak_two_1.wav"}
    # whole frames of the model, at the rate of the judge
    seconds = len(read_sound(str(made[0]), SAMPLE_RATE, 60.0)) / SAMPLE_RATE
    assert seconds == pytest.approx(round(seconds * RATE / FRAME) * FRAME / RATE, abs=1e-3)
