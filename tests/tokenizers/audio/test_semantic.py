"""The semantic level and its teachers."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.config.audio_tokenizer import AudioSemanticConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio.recogniser import Recogniser
from ernie5.tokenizers.audio.semantic import SemanticLoss, check_transcripts, make_teacher

WHISPER = Path(__file__).parents[2] / "golden/whisper_encoder"
RATE = 800


class Loudness:
    """A teacher of two numbers: whether a frame of 64 samples is positive, and a one."""

    dim = 2

    def features(self, waveform: paddle.Tensor) -> paddle.Tensor:
        frames = waveform.reshape([waveform.shape[0], -1, 64]).mean(axis=2)
        return paddle.stack([frames, paddle.ones_like(frames)], axis=-1)


def spoken() -> list[tuple[np.ndarray, str]]:
    return [(np.random.default_rng(i).normal(0, 0.1, 640).astype(np.float32), "ab") for i in range(4)]


def test_loss_is_one_minus_the_mean_cosine():
    loss, waveform, first = SemanticLoss(3, Loudness()), paddle.randn([2, 256]), paddle.randn([2, 4, 3])
    given = first.numpy() @ loss.projection.weight.numpy() + loss.projection.bias.numpy()
    wanted = Loudness().features(waveform).numpy()
    norms = np.linalg.norm(given, axis=-1) * np.linalg.norm(wanted, axis=-1)
    assert float(loss(first, waveform)) == pytest.approx(1 - ((given * wanted).sum(-1) / norms).mean(), abs=1e-5)


def test_a_teacher_is_no_part_of_what_is_trained():
    teacher = make_teacher(AudioSemanticConfig(weight=1.0, teacher=str(WHISPER)), 16_000, [], 0, Path("unused"))
    loss = SemanticLoss(4, teacher)
    loss.train()
    assert [name for name, _ in loss.named_parameters()] == ["projection.weight", "projection.bias"]
    assert not teacher.training


def test_a_recogniser_is_trained_and_saved(tmp_path: Path):
    config = AudioSemanticConfig(weight=1.0, recogniser_steps=2)
    teacher = make_teacher(config, RATE, spoken(), 0, tmp_path / "recogniser")
    waveform = paddle.randn([1, 640])
    assert teacher.features(waveform).shape == [1, 10, teacher.dim]
    loaded = Recogniser.from_pretrained(tmp_path / "recogniser")
    np.testing.assert_array_equal(loaded.features(waveform).numpy(), teacher.features(waveform).numpy())


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_a_recogniser_needs_texts(texts: list[str]):
    with pytest.raises(UserError, match="no sound of data.train has a text"):
        check_transcripts(AudioSemanticConfig(weight=1.0), texts)


@pytest.mark.parametrize("config", [AudioSemanticConfig(), AudioSemanticConfig(weight=1.0, teacher="folder")])
def test_no_recogniser_needs_no_texts(config: AudioSemanticConfig):
    check_transcripts(config, [""])
