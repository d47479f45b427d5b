"""A codec and a speaker encoder of plain arithmetic, with a model and files of noise: what comes out is known."""

import dataclasses
import wave
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from ernie5.config.schema import AudioConfig, ModelConfig, VisionConfig
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Part, build_row
from ernie5.data.sample import Sample, Segment
from ernie5.data.sequence import EncodedSample, encode_sample
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.unified import UnifiedSequence
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer

AUDIO = AudioConfig(sample_rate=1000, num_codebooks=2, codebook_size=8, speaker_dim=4, max_seconds=2.0)
FRAME = 80  # samples


class ArithmeticCodec:
    """What AudioCoder needs of an AudioTokenizer; the codes of a frame follow from its samples alone."""

    config = SimpleNamespace(codebook_size=AUDIO.codebook_size, frame_size=FRAME)

    def __init__(self):
        self.calls = 0

    def encode(self, waveform: paddle.Tensor) -> paddle.Tensor:
        self.calls += 1
        return paddle.to_tensor(np.stack([codes_of(row) for row in waveform.numpy()]))


class ArithmeticSpeaker:
    """What AudioCoder needs of a SpeakerEncoder."""

    def embed(self, clip: np.ndarray) -> np.ndarray:
        return voice_of(clip)


def codes_of(samples: np.ndarray) -> np.ndarray:
    """float32 [samples] -> int64 [frames, levels]: digits of the sum of magnitudes, the last frame filled."""
    frames = np.pad(samples, [0, -len(samples) % FRAME]).reshape(-1, FRAME)
    sums = np.rint(np.abs(frames.astype(np.float64)).sum(1) * 1000).astype(np.int64)
    size = AUDIO.codebook_size
    return np.stack([sums // size**level % size for level in range(AUDIO.num_codebooks)], axis=1)


def voice_of(clip: np.ndarray) -> np.ndarray:
    """float32 [speaker_dim]."""
    return np.array([clip.mean(), clip.std(), clip.max(), clip.min()], np.float32)


def audio_coder() -> AudioCoder:
    return AudioCoder(ArithmeticCodec(), ArithmeticSpeaker())


def audio_model(text: ModelConfig, vision: VisionConfig | None = None) -> Ernie5ForCausalLM:
    """The text model that listens and speaks, with weights so large that every input shows in every logit."""
    paddle.seed(7)
    rng = np.random.default_rng(7)
    model = Ernie5ForCausalLM(dataclasses.replace(text, audio=AUDIO, vision=vision, vocab_size=310))
    for name, tensor in model.state_dict().items():
        if "norm" not in name and "expert_bias" not in name:
            tensor.set_value(rng.normal(0, 0.2, tensor.shape).astype(np.float32))
    return model.eval()


def noise_sound(folder: Path, num_samples: int, seed: int = 0) -> str:
    """The name of a WAV file of noise at the rate of AUDIO."""
    path = folder / f"noise_{num_samples}_{seed}.wav"
    levels = np.random.default_rng(seed).integers(-8000, 8000, num_samples).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO.sample_rate)
        file.writeframes(levels.tobytes())
    return str(path)


def encoded(model: ModelConfig, tokenizer: TextTokenizer, *segments: Segment) -> EncodedSample:
    """A sample as evaluation takes it."""
    sample = Sample(segments=segments, origin="test:1")
    return encode_sample(sample, tokenizer, media=MediaSettings.uncorrupted(model))


def row_of(samples: Sequence[EncodedSample], length: int = 0) -> UnifiedSequence:
    """Samples one behind the other in a row, padded to `length`."""
    parts = [Part(sample, 0, len(sample)) for sample in samples]
    return build_row(parts, length or sum(map(len, samples)), pad_id=0)
