"""The losses of a step, and what each of them moves."""

import numpy as np
import paddle
import pytest

from ernie5.config.audio_tokenizer import (
    AudioAdversarialConfig,
    AudioLossConfig,
    AudioSemanticConfig,
    AudioTokenizerConfig,
)
from ernie5.tokenizers.audio.losses import reconstruction_losses
from ernie5.tokenizers.audio.objective import Objective
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

CONFIG = AudioTokenizerConfig(
    sample_rate=800,
    hop_size=16,
    window_size=32,
    channels=16,
    frame_channels=16,
    num_blocks=1,
    num_frame_blocks=1,
    latent_size=16,
    num_codebooks=3,
    codebook_size=16,
)
PLAIN = AudioLossConfig(windows=(64, 32), mel_bands=8)
ADVERSARY = AudioAdversarialConfig(weight=0.5, periods=(2,), resolutions=(64,), channels=4, learning_rate=2e-3)


class Signs:
    """A teacher that tells on which side of zero each quarter of a frame lies."""

    dim = 4

    def features(self, waveform: paddle.Tensor) -> paddle.Tensor:
        return waveform.reshape([waveform.shape[0], -1, 4, 16]).mean(axis=3).sign() + 0.1


def objective(config: AudioLossConfig = PLAIN, teacher: object = None) -> Objective:
    made = Objective(AudioTokenizer(CONFIG), config, teacher)
    made.train()
    latents = made.tokenizer.latents(waveform(8))
    made.tokenizer.quantizer.initialise(latents.detach(), np.random.default_rng(0))
    return made


def waveform(batch: int = 4) -> paddle.Tensor:
    return 0.1 * paddle.randn([batch, 5 * CONFIG.frame_size])


def gradients(layer: paddle.nn.Layer) -> float:
    return sum(float(p.grad.abs().sum()) for p in layer.parameters() if p.grad is not None)


def test_losses_are_weighted_distances_of_what_the_kept_levels_make():
    made, sound, levels = objective(), waveform(), [1, 2, 3, 3]
    terms = made(sound, levels, False)
    quantized = made.tokenizer.quantizer(made.tokenizer.latents(sound), levels)
    expected = reconstruction_losses(made.tokenizer.decoder(quantized.latents), sound, 800, PLAIN)
    expected["commitment"] = PLAIN.commitment * quantized.commitment.mean()
    assert {name: float(loss) for name, loss in terms.losses.items()} == pytest.approx(
        {name: float(loss) for name, loss in expected.items()}, rel=1e-4
    )


def test_each_loss_reaches_encoder_and_decoder():
    made = objective(
        AudioLossConfig(windows=(64,), adversarial=ADVERSARY, semantic=AudioSemanticConfig(weight=1.0)), Signs()
    )
    for name in made(waveform(), [3] * 4, True).losses:
        for parameter in made.parameters():
            parameter.clear_gradient(set_to_zero=False)
        made(waveform(), [3] * 4, True).losses[name].backward()
        assert gradients(made.tokenizer.encoder) > 0, name
        if name not in ("commitment", "semantic"):
            assert gradients(made.tokenizer.decoder) > 0, name


def test_semantic_loss_falls():
    made = objective(AudioLossConfig(windows=(64,), semantic=AudioSemanticConfig(weight=1.0)), Signs())
    optimizer = paddle.optimizer.AdamW(5e-3, parameters=[*made.tokenizer.parameters(), *made.semantic.parameters()])
    rng, losses, sound = np.random.default_rng(0), [], waveform()
    for _ in range(25):
        terms = made(sound, [3] * 4, False)
        terms.losses["semantic"].backward()
        optimizer.step()
        optimizer.clear_grad()
        made.tokenizer.quantizer.learn(terms.quantized, rng)
        losses.append(float(terms.losses["semantic"]))
    assert losses[-1] < 0.8 * losses[0]


def test_an_adversary_learns_to_tell_decoded_sound():
    made = objective(AudioLossConfig(windows=(64,), adversarial=ADVERSARY))
    optimizer = paddle.optimizer.AdamW(2e-3, parameters=made.adversary.parameters())
    losses = []
    for _ in range(25):
        sound = waveform()
        losses.append(made.adversary.loss(sound, made(sound, [3] * 4, True).output))
        losses[-1].backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(losses[-1]) < 0.8 * float(losses[0])
