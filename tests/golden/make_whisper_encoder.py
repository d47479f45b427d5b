"""Makes `whisper_encoder/`: a tiny random Whisper as transformers saves it, and what its encoder gives for two clips.

    pip install -e ".[parity]" && python tests/golden/make_whisper_encoder.py

`expected.npz` holds waveforms [2, samples] at 16 kHz, the log-mel spectrograms of WhisperFeatureExtractor and the
encoder's last hidden states, both of the whole window (two seconds here, thirty in a published model).
"""

from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

FOLDER = Path(__file__).parent / "whisper_encoder"
RATE, SAMPLES = 16_000, 10_240


def clips() -> np.ndarray:
    """A chord that fades and noise that grows, [2, SAMPLES]."""
    time = np.arange(SAMPLES) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 550, 1800)) / 6 * np.exp(-3 * time)
    noise = np.random.default_rng(0).standard_normal(SAMPLES) * 0.2 * time
    return np.stack([chord, noise]).astype(np.float32)


def main() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=16,
        num_mel_bins=20,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        max_source_positions=100,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config).eval()
    for parameter in model.model.encoder.parameters():  # its own start leaves biases 0 and the rest near it
        parameter.data += 0.2 * torch.randn_like(parameter)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=2)
    waveforms = clips()
    mel = extractor(list(waveforms), sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        hidden = model.model.encoder(mel).last_hidden_state
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / "expected.npz", waveforms=waveforms, mel=mel.numpy(), hidden=hidden.numpy())
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
