"""Small audio: a model, a codec and a speaker encoder of random weights, and files of noise, for tests."""

import dataclasses
from pathlib import Path

import numpy as np
import paddle

from ernie5.config.audio_networks import MelNetworkConfig, SpeakerConfig
from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.config.schema import AudioConfig, ModelConfig, VisionConfig
from ernie5.data.sounds import write_sound
from ernie5.modality.audio_codes import AudioCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from tests.vision_models import stirred

RATE, FRAME, LEVELS, CODES, VOICE = 1600, 128, 3, 16, 8
AUDIO = AudioConfig(sample_rate=RATE, num_codebooks=LEVELS, codebook_size=CODES, speaker_dim=VOICE, max_seconds=5.0)


def audio_tokenizer() -> AudioTokenizer:
    """One of random weights that fits `AUDIO`."""
    paddle.seed(5)
    config = AudioTokenizerConfig(
        sample_rate=RATE,
        hop_size=32,
        window_size=64,
        channels=16,
        frame_channels=16,
        num_blocks=1,
        num_frame_blocks=1,
        kernel_size=3,
        latent_size=16,
        num_codebooks=LEVELS,
        codebook_size=CODES,
    )
    tokenizer = stirred(AudioTokenizer(config))
    tokenizer.eval()
    return tokenizer


def speaker_encoder() -> SpeakerEncoder:
    """One of random weights that fits `AUDIO`."""
    paddle.seed(6)
    encoder = SpeakerEncoder(
        SpeakerConfig(network=MelNetworkConfig(sample_rate=RATE, bands=8, width=8, units=1), dim=VOICE)
    )
    encoder.eval()
    return encoder


def audio_coder(with_speaker: bool = True) -> AudioCoder:
    return AudioCoder(audio_tokenizer(), speaker_encoder() if with_speaker else None)


def audio_model(
    text: ModelConfig, audio: AudioConfig | None = AUDIO, vision: VisionConfig | None = None
) -> Ernie5ForCausalLM:
    """The text model with audio, and weights so large that every input shows in every logit."""
    rng = np.random.default_rng(7)
    config = dataclasses.replace(text, audio=audio, vision=vision, vocab_size=310, num_hidden_layers=5)
    model = Ernie5ForCausalLM(config)
    for name, tensor in model.state_dict().items():
        if "norm" not in name and "expert_bias" not in name:
            tensor.set_value(rng.normal(0, 0.2, tensor.shape).astype(np.float32))
    return model.eval()


def noise_sound(folder: Path, num_frames: float = 3, seed: int = 0) -> str:
    """The name of a WAV file of noise."""
    path = folder / f"noise_{num_frames}_{seed}.wav"
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(num_frames * FRAME))
    write_sound(path, samples, RATE)
    return str(path)
