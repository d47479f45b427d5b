"""The training of a vision tokenizer, on a handful of tiny media."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import (
    AdversarialConfig,
    SemanticConfig,
    VisionLossConfig,
    VisionTokenizerConfig,
    VisionTokenizerDataConfig,
    VisionTokenizerRunConfig,
    VisionTokenizerTrainConfig,
)
from ernie5.errors import Fault, UserError
from ernie5.tokenizers.vision.objective import Objective, drop_scales
from ernie5.tokenizers.vision.sampler import MediaSampler
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from ernie5.tokenizers.vision.train import _Trainer, film_phase, first_network, train_vision_tokenizer
from tests.vision_models import stirred


def run_config(
    output: Path | str, temporal_stride: int = 1, bits: int = 6, **train: object
) -> VisionTokenizerRunConfig:
    return VisionTokenizerRunConfig(
        tokenizer=VisionTokenizerConfig(
            encoder=VisionEncoderConfig(channels=(8, 8, 16), temporal_stride=temporal_stride),
            bits=bits,
            resolutions=(ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2))),),
        ),
        train=VisionTokenizerTrainConfig(
            **{"image_steps": 3, "batch_size": 4, "eval_steps": 0, "log_steps": 1} | train
        ),
        data=VisionTokenizerDataConfig(train=("unused",)),
        output_dir=str(output),
    )


def media(number: int = 6, frames: int = 3) -> list[np.ndarray]:
    """Bright squares that move to the right, uint8 [frames, 8, 8, 3]."""
    films = np.zeros((number, frames, 8, 8, 3), dtype=np.uint8)
    for i in range(number):
        for t in range(frames):
            films[i, t, i % 4 : i % 4 + 4, t : t + 4] = 200
    return list(films)


def records(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_the_folder_holds_tokenizer_metrics_and_sheet(tmp_path: Path):
    tokenizer, quality = train_vision_tokenizer(run_config(tmp_path / "out"), media(), media(2, 1))
    assert VisionTokenizer.from_pretrained(tmp_path / "out").digest == tokenizer.digest
    assert [record["step"] for record in records(tmp_path / "out", "train")] == [1, 2, 3]
    assert records(tmp_path / "out", "eval")[-1]["psnr"] == list(quality.psnr)
    with Image.open(tmp_path / "out/reconstructions.png") as sheet:
        assert sheet.width == 8 * 3 * 10  # eight times as large: the picture and two prefixes


def test_training_learns_its_pictures(tmp_path: Path):
    config = run_config(tmp_path / "out", image_steps=60, batch_size=8, learning_rate=5e-3, eval_steps=5)
    train_vision_tokenizer(config, media(), media())
    quality = records(tmp_path / "out", "eval")
    assert quality[-1]["psnr"][-1] > quality[0]["psnr"][-1] + 3


def test_films_train_the_weights_on_the_past(tmp_path: Path):
    config = run_config(tmp_path / "out", temporal_stride=2, video_steps=3, video_frames=3, image_share=0.0)
    tokenizer, _ = train_vision_tokenizer(config, media(), media(2))
    assert float(tokenizer.encoder.conv_in.weight[:, :, :2].abs().sum()) > 0
    assert [record["phase"] for record in records(tmp_path / "out", "train")] == ["pictures"] * 3 + ["films"] * 3


def test_pictures_alone_leave_the_past_at_zero(tmp_path: Path):
    tokenizer, _ = train_vision_tokenizer(run_config(tmp_path / "out"), media(), media(2))
    assert tokenizer.temporal_kernel == 3
    assert float(tokenizer.encoder.conv_in.weight[:, :, :2].abs().sum()) == 0


def test_a_seed_repeats(tmp_path: Path):
    digests = [
        train_vision_tokenizer(run_config(tmp_path / str(i), seed=seed), media(), media(1))[0].digest
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


OPTIONS = {
    "adversarial": VisionLossConfig(
        adversarial=AdversarialConfig(weight=0.1, channels=(8, 8), r1_weight=0.1, lecam_weight=0.1)
    ),
    "semantic": VisionLossConfig(semantic=SemanticConfig(weight=0.1)),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_what_is_learned(option: str, tmp_path: Path):
    plain, _ = train_vision_tokenizer(run_config(tmp_path / "plain"), media(), media(1))
    other, _ = train_vision_tokenizer(run_config(tmp_path / "other", loss=OPTIONS[option]), media(), media(1))
    assert option in records(tmp_path / "other", "train")[0]
    assert other.digest != plain.digest


def test_adversary_sets_in_at_its_step(tmp_path: Path):
    adversarial = AdversarialConfig(weight=0.1, channels=(8, 8), start_step=2)
    config = run_config(tmp_path / "out", loss=VisionLossConfig(adversarial=adversarial))
    train_vision_tokenizer(config, media(), media(1))
    assert ["discriminator" in record for record in records(tmp_path / "out", "train")] == [False, False, True]


def test_every_weight_of_the_picture_network_gets_a_gradient():
    config = run_config("unused")
    objective = Objective(stirred(first_network(config)), config.train)
    pixels = paddle.rand([4, 1, 8, 8, 3]) * 2 - 1
    sum(objective(pixels, np.random.default_rng(0), False).losses.values()).backward()
    still = [n for n, p in objective.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    assert not still


def test_a_dropped_scale_is_not_decoded():
    config = run_config("unused", scale_dropout=1.0)
    objective, pixels = Objective(first_network(config), config.train), paddle.rand([2, 1, 8, 8, 3]) * 2 - 1
    output = objective(pixels, np.random.default_rng(0), False).output
    tokenizer = objective.tokenizer
    codes = tokenizer.residual_quantize(tokenizer.latents(pixels).flatten(0, 1), ((1, 1), (2, 2)))
    first = tokenizer.accumulate(paddle.zeros_like(codes.latent), codes.bits[0], 0, ((1, 1), (2, 2)))
    expected = tokenizer.decoder(first.unsqueeze(1)).flatten(0, 1).transpose([0, 3, 1, 2])
    np.testing.assert_allclose(output.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_prefix_goes_to_what_it_can_tell():
    config = run_config("unused")
    tokenizer, scales = first_network(config), ((1, 1), (2, 2))
    latents = paddle.randn([2, 1, 2, 2, 6])
    latents.stop_gradient = False
    codes = tokenizer.residual_quantize(latents.flatten(0, 1), scales)
    kept = drop_scales(tokenizer, codes, latents, scales, 1.0, np.random.default_rng(0))
    wanted = paddle.randn(kept.shape)
    (kept * wanted).sum().backward()
    mean = wanted.mean(axis=[2, 3], keepdim=True).expand(wanted.shape)  # the first scale tells the mean alone
    np.testing.assert_allclose(latents.grad.numpy(), mean.numpy(), rtol=1e-4, atol=1e-5)


def test_more_bits_start_from_the_weights_of_fewer(tmp_path: Path):
    smaller, _ = train_vision_tokenizer(run_config(tmp_path / "six"), media(), media(1))
    config = replace(run_config("unused", bits=8), init_from=str(tmp_path / "six"))
    larger = first_network(config)
    np.testing.assert_array_equal(larger.to_bits.weight[:, :6].numpy(), smaller.to_bits.weight.numpy())
    np.testing.assert_array_equal(larger.decoder.conv_in.weight[:, :6].numpy(), smaller.decoder.conv_in.weight.numpy())
    np.testing.assert_array_equal(larger.encoder.conv_in.weight.numpy(), smaller.encoder.conv_in.weight.numpy())
    assert float(larger.to_bits.weight[:, 6:].abs().sum()) > 0


def test_fewer_bits_do_not_start_from_more(tmp_path: Path):
    train_vision_tokenizer(run_config(tmp_path / "six"), media(), media(1))
    with pytest.raises(UserError, match="init_from: .* has 6 bits"):
        first_network(replace(run_config("unused", bits=4), init_from=str(tmp_path / "six")))


def test_a_second_run_into_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=f"output_dir: {tmp_path} exists already"):
        train_vision_tokenizer(run_config(tmp_path), media(), media(1))
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_films_that_are_too_short_are_told_before_the_folder_is_made(tmp_path: Path):
    config = run_config(tmp_path / "out", video_steps=2, video_frames=5)
    with pytest.raises(UserError, match="no film of 5 frames: set train.video_steps=0"):
        train_vision_tokenizer(config, media(), media(1))
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_later_leaves_what_the_picture_phase_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture, _ = train_vision_tokenizer(run_config(tmp_path / "pictures"), media(), media(1))
    monkeypatch.setattr(MediaSampler, "films", lambda *_: 1 / 0)
    config = run_config(tmp_path / "out", video_steps=2, video_frames=2, image_share=0.0)
    with pytest.raises(ZeroDivisionError):
        train_vision_tokenizer(config, media(), media(1))
    assert VisionTokenizer.from_pretrained(tmp_path / "out").digest == picture.digest


def test_a_loss_that_is_not_finite_is_a_fault(tmp_path: Path):
    config = run_config(tmp_path / "out", loss=VisionLossConfig(l2=float("nan")))
    with pytest.raises(Fault, match="pictures: a loss is not finite at step 1"):
        train_vision_tokenizer(config, media(), media(1))


def test_media_that_do_not_fit_are_refused_before_the_folder_is_made(tmp_path: Path):
    with pytest.raises(UserError, match="4 x 8 pixels"):
        train_vision_tokenizer(run_config(tmp_path / "out"), [np.zeros((1, 4, 8, 3), np.uint8)], media(1))
    with pytest.raises(UserError, match="data.validation holds no picture"):
        train_vision_tokenizer(run_config(tmp_path / "out"), media(), [])
    assert not (tmp_path / "out").exists()


def test_each_term_is_its_weight_times_its_loss():
    loss = VisionLossConfig(
        commitment=0.3,
        adversarial=AdversarialConfig(weight=0.2, channels=(8, 8)),
        semantic=SemanticConfig(weight=0.4),
    )
    config = run_config("unused", loss=loss, scale_dropout=0.0)
    objective = Objective(stirred(first_network(config)), config.train)
    tokenizer, pixels = objective.tokenizer, paddle.rand([2, 1, 8, 8, 3]) * 2 - 1
    terms = objective(pixels, np.random.default_rng(0), True)
    features = tokenizer.encoder(pixels)
    flat = tokenizer.to_bits(features).flatten(0, 1)
    codes = tokenizer.residual_quantize(flat, ((1, 1), (2, 2)))
    distance = ((flat.numpy() - codes.latent.numpy()) ** 2).sum(axis=-1).mean()
    np.testing.assert_allclose(float(terms.losses["commitment"]), 0.3 * distance, rtol=1e-4)
    score = -float(objective.adversary.discriminator(terms.output).mean())
    np.testing.assert_allclose(float(terms.losses["adversarial"]), 0.2 * score, rtol=1e-4)
    semantic = float(objective.semantic(features, pixels))
    np.testing.assert_allclose(float(terms.losses["semantic"]), 0.4 * semantic, rtol=1e-4)
    terms.losses["commitment"].backward()
    assert float(tokenizer.to_bits.weight.grad.abs().sum()) > 0


def make_trainer(output: Path, **train: object) -> _Trainer:
    config = run_config(output, **train)
    paddle.seed(0)
    return _Trainer(config.train, Objective(stirred(first_network(config)), config.train), media(1), output, print)


def test_the_discriminator_moves_by_the_gradient_of_its_own_loss_alone(tmp_path: Path):
    loss = VisionLossConfig(adversarial=AdversarialConfig(weight=10.0, channels=(8, 8), learning_rate=1e-3))
    trainer = make_trainer(tmp_path, loss=loss, scale_dropout=0.0)
    adversary, pixels = trainer.objective.adversary, paddle.rand([4, 1, 8, 8, 3]) * 2 - 1
    terms = trainer.objective(pixels, np.random.default_rng(0), False)
    adversary.loss(terms.target, terms.output).backward()
    before = {name: (p.numpy(), p.grad.numpy()) for name, p in adversary.named_parameters()}
    adversary.clear_gradients()
    trainer._step(pixels, trainer._optimizer(1e-3), step=1)
    for name, parameter in adversary.named_parameters():
        weight, gradient = before[name]
        told = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
        # Adam's first step without momentum is the sign of the gradient
        moved = np.sign(parameter.numpy() - weight)[told]
        np.testing.assert_array_equal(moved, -np.sign(gradient[told]), err_msg=name)


def test_the_film_phase_sees_pictures_in_the_share_asked_for():
    class Sampler:
        pictures = staticmethod(lambda rng, number: "pictures")
        films = staticmethod(lambda rng, number, frames: "films")

    phase = film_phase(run_config("unused", video_steps=1, image_share=0.25).train, Sampler())
    rng = np.random.default_rng(0)
    drawn = [phase.draw(rng) for _ in range(2000)]
    assert 0.22 < drawn.count("pictures") / 2000 < 0.28
