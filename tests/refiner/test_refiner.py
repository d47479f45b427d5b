import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import paddle
import pytest
from safetensors.paddle import load_file as load_tensors
from safetensors.paddle import save_file

from ernie5.config.refiner import RefinerConfig
from ernie5.errors import UserError
from ernie5.refiner import flow
from ernie5.refiner.pixels import upsample
from ernie5.refiner.refiner import Refiner, draw_noise
from tests.tolerances import tolerance


def pixels(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32))


@pytest.mark.parametrize("scale", [2, 4])
def test_size_grows_by_the_scale(config: RefinerConfig, scale: int, film: np.ndarray):
    refined = Refiner(dataclasses.replace(config, scale=scale)).refine(film, 0.5, num_steps=1)
    assert refined.shape == (3, 8 * scale, 12 * scale, 3)
    assert refined.dtype == np.uint8


def test_before_training_one_step_gives_the_upsampled_input(config: RefinerConfig, film: np.ndarray):
    np.testing.assert_array_equal(Refiner(config).refine(film, 0.5, num_steps=1), upsample(film, 2))


def test_before_training_the_loss_is_1(config: RefinerConfig):
    rng = np.random.default_rng(0)
    upsampled = pixels(4, 2, 16, 16, 3)
    detail = config.detail_std * rng.standard_normal(upsampled.shape).astype(np.float32)
    t = paddle.to_tensor(flow.draw_times(4, rng))
    loss = Refiner(config).loss(upsampled + detail, upsampled, t, draw_noise(rng, 4, 16, 16), t)
    assert float(loss) == pytest.approx(1.0, abs=0.05)  # of 6144 draws


def test_loss_is_the_error_of_the_velocity_along_the_path(refiner: Refiner):
    """Against NumPy: the squared error of the velocity, over 1 / ((1 - t)^2 + t^2)."""
    original, upsampled, noise = pixels(2, 3, 8, 8, 3), pixels(2, 3, 8, 8, 3) * 0.5, pixels(2, 1, 8, 8, 3)
    t, strength = np.array([0.3, 0.8], np.float32), paddle.to_tensor([0.1, 0.6])
    detail = (original - upsampled).numpy() / 0.1
    wide = t.reshape(2, 1, 1, 1, 1)
    x_t = paddle.to_tensor((1 - wide) * detail + wide * noise.numpy())
    velocity = flow.velocity(refiner(x_t, upsampled, paddle.to_tensor(t), strength), x_t, paddle.to_tensor(wide))
    expected = ((velocity.numpy() - (noise.numpy() - detail)) ** 2 * ((1 - wide) ** 2 + wide**2)).mean()
    loss = refiner.loss(original, upsampled, strength, noise, paddle.to_tensor(t))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-4)


def test_a_still_film_is_its_picture_in_every_frame(refiner: Refiner, film: np.ndarray):
    picture = refiner.refine(film[:1], 0.4, num_steps=3)
    still = refiner.refine(film[[0, 0, 0]], 0.4, num_steps=3)
    assert np.abs(still.astype(int) - picture).max() <= 1  # sums in another order may round to the other side


def test_frames_see_the_frames_before_and_after(refiner: Refiner, film: np.ndarray):
    changed = film.copy()
    changed[1] = 255 - changed[1]
    before, after = refiner.refine(film, 0.4, 1), refiner.refine(changed, 0.4, 1)
    assert (before[0] != after[0]).any() and (before[2] != after[2]).any()


def test_without_temporal_weights_a_film_is_frame_by_frame(refiner: Refiner, film: np.ndarray):
    for name, parameter in refiner.named_parameters():
        if "mixing" in name:
            parameter.set_value(paddle.zeros_like(parameter))
    apart = np.concatenate([refiner.refine(film[i : i + 1], 0.4, 2) for i in range(3)])
    assert np.abs(refiner.refine(film, 0.4, 2).astype(int) - apart).max() <= 1


def test_samples_of_a_batch_do_not_mix(refiner: Refiner):
    x_t, upsampled = pixels(2, 3, 8, 8, 3), pixels(2, 3, 8, 8, 3) * 0.5
    t, strength = paddle.to_tensor([0.2, 0.9]), paddle.to_tensor([0.7, 0.1])
    both = refiner(x_t, upsampled, t, strength)
    for i in range(2):
        alone = refiner(x_t[i : i + 1], upsampled[i : i + 1], t[i : i + 1], strength[i : i + 1])
        np.testing.assert_allclose(both[i : i + 1].numpy(), alone.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["upsampled", "t", "strength"])
def test_every_condition_matters(refiner: Refiner, changed: str):
    given = {"upsampled": pixels(1, 1, 8, 8, 3), "t": paddle.to_tensor([0.5]), "strength": paddle.to_tensor([0.5])}
    x_t = pixels(1, 1, 8, 8, 3)
    before = refiner(x_t, **given)
    given[changed] = given[changed] * 0.5
    assert float((refiner(x_t, **given) - before).abs().max()) > 1e-3


def test_gradients_stay_finite_where_a_norm_meets_a_lone_pixel(refiner: Refiner):
    """It makes activations of nearly -100, where the gradient of Paddle's `silu` is NaN on CPU."""
    for name, parameter in refiner.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.set_value(paddle.full_like(parameter, 30.0))
    original, t = pixels(1, 1, 16, 16, 3), paddle.to_tensor([0.5])
    refiner.loss(original, original * 0.5, t, pixels(1, 1, 16, 16, 3), t).backward()
    assert all(bool(p.grad.isfinite().all()) for p in refiner.parameters() if p.grad is not None)


def test_noise_is_a_function_of_the_seed(refiner: Refiner, film: np.ndarray):
    first, again, other = (refiner.refine(film, 0.5, 2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_saved_refiner_loads_equal(refiner: Refiner, film: np.ndarray, tmp_path: Path):
    folder = refiner.save_pretrained(tmp_path / "refiner")
    loaded = Refiner.from_pretrained(folder)
    assert loaded.config == refiner.config
    for name, tensor in refiner.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), tensor.numpy())
    np.testing.assert_allclose(loaded.refine(film, 0.3), refiner.refine(film, 0.3), **tolerance("float32"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model.safetensors", "refiner"]


def damaged(folder: Path, damage: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if damage == "another model":
        config["model_type"] = "ernie5"
    elif damage == "unknown setting":
        config["colour"] = 1
    elif damage == "untrained":
        config["detail_std"] = 0.0
    elif damage == "other channels":
        config["channels"] = [8, 24]
    elif damage == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage in ("float64", "bfloat16", "nan"):
        path = folder / "model.safetensors"
        weights = load_tensors(path)
        if damage == "nan":
            weights["network.conv_in.bias"][0] = float("nan")
        else:
            weights["network.conv_in.bias"] = weights["network.conv_in.bias"].astype(damage)
        save_file(weights, path)
    elif damage == "huge channels":
        config["channels"] = [8, 4000]
    elif damage == "too huge channels":
        config["channels"] = [8, 16, 10**12]
    elif damage == "huge embedding":
        config["embedding_size"] = 4096
    elif damage == "endless detail":
        config["detail_std"] = float("inf")
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    text = {"cut config": "{", "nested config": "[" * 100_000}.get(damage, json.dumps(config))
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    "damage, message",
    [
        ("another model", "is not of an ernie5 refiner"),
        ("unknown setting", "colour"),
        ("untrained", "detail_std is 0"),
        ("other channels", "do not fit its config.json"),
        ("cut weights", "not a whole safetensors file"),
        ("no weights", "cannot be read"),
        ("cut config", "not JSON"),
        ("nested config", "not JSON"),
        ("float64", "1 weights do not fit its config.json, such as network.conv_in.bias"),
        ("bfloat16", "1 weights do not fit its config.json, such as network.conv_in.bias"),
        ("nan", "not those that its config.json was written for"),
        ("huge channels", "do not fit its config.json"),
        ("too huge channels", "channels is 1000000000000: must be at most 4096"),
        ("huge embedding", "do not fit its config.json"),
        ("endless detail", "detail_std must be a finite number"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(refiner: Refiner, tmp_path: Path, damage: str, message: str):
    folder = refiner.save_pretrained(tmp_path / "refiner")
    damaged(folder, damage)
    built = patch("ernie5.refiner.refiner.UNet", side_effect=AssertionError("a network was built"))
    with pytest.raises(UserError, match=message) as caught, built if "huge" in damage else nullcontext():
        Refiner.from_pretrained(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing/config.json: cannot be read"):
        Refiner.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize(
    "shape, dtype, options, message",
    [
        ((1, 8, 8, 3), "float32", {}, "takes uint8"),
        ((8, 8, 3), "uint8", {}, r"\[8, 8, 3\]"),
        ((0, 8, 8, 3), "uint8", {}, r"\[0, 8, 8, 3\]"),
        ((1, 5, 8, 3), "uint8", {}, "multiples of 2"),
        ((1, 8, 8, 3), "uint8", {"strength": 1.5}, "strength is 1.5"),
        ((1, 8, 8, 3), "uint8", {"num_steps": 0}, "at least one step"),
        ((1, 8, 8, 3), "uint8", {"method": "foo"}, "method is foo: take euler or heun"),
        ((1, 8, 8, 3), "uint8", {"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_refined_is_refused(config, shape, dtype, options, message):
    refiner = Refiner(dataclasses.replace(config, channels=(8, 8, 8)))
    with pytest.raises(UserError, match=message):
        refiner.refine(np.zeros(shape, dtype), **{"strength": 0.5, **options})


def test_a_refiner_is_not_built_before_the_detail_is_measured(config: RefinerConfig):
    with pytest.raises(ValueError, match="detail_std"):
        Refiner(dataclasses.replace(config, detail_std=0.0))
