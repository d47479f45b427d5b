import dataclasses
import json
import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import paddle
import pytest
from PIL import Image

from ernie5.config.load import load_as
from ernie5.config.refiner import (
    RefinerConfig,
    RefinerDataConfig,
    RefinerRunConfig,
    RefinerTrainConfig,
    check_run,
)
from ernie5.errors import Fault, UserError
from ernie5.refiner.evaluation import Row, evaluate, write_sheet
from ernie5.refiner.pairs import draw_pairs, measure_detail
from ernie5.refiner.pixels import psnr, to_float, to_uint8, upsample
from ernie5.refiner.refiner import Refiner
from ernie5.refiner.training import Trainer, learning_rate, train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def media() -> list[np.ndarray]:
    """Black and white squares at several places: detail that low resolution loses; the last one a film."""
    rng = np.random.default_rng(0)
    made = []
    for frames in (1, 1, 1, 1, 3):
        medium = np.zeros((frames, 16, 20, 3), np.uint8)
        top, left = rng.integers(1, 8, 2)
        for i in range(frames):
            medium[i, top : top + 7, left + i : left + i + 7] = 255
        made.append(medium)
    return made


@pytest.fixture
def run_config(config: RefinerConfig, tmp_path: Path) -> RefinerRunConfig:
    return RefinerRunConfig(
        refiner=dataclasses.replace(config, detail_std=0.0),
        train=RefinerTrainConfig(
            steps=4, batch_size=4, crop=16, film_share=0.5, film_frames=2, log_steps=2, warmup_steps=2, sample_steps=2
        ),
        data=RefinerDataConfig(train=("unused",)),
        output_dir=str(tmp_path / "run"),
    )


def test_pairs_are_cuts_of_originals_and_their_degraded_selves(run_config: RefinerRunConfig, media: list[np.ndarray]):
    pairs = draw_pairs(media[:1], run_config.refiner, run_config.train, 1, np.random.default_rng(0))
    assert pairs.original.shape == pairs.upsampled.shape == (4, 1, 16, 16, 3)
    assert len(np.unique(pairs.strength)) == 4
    cuts = [to_float(media[0][:, :, left : left + 16]) for left in range(5)]
    for original, upsampled in zip(pairs.original, pairs.upsampled, strict=True):
        assert any((original == cut).all() for cut in cuts)
        assert psnr(to_uint8(upsampled), to_uint8(original)) > 5  # of this cut, not of another place


def test_a_batch_of_films_has_as_many_frames_as_one_of_pictures(run_config: RefinerRunConfig, media: list[np.ndarray]):
    pairs = draw_pairs(media[-1:], run_config.refiner, run_config.train, 2, np.random.default_rng(0))
    assert pairs.original.shape == (2, 2, 16, 16, 3)


def test_mirror_swaps_left_and_right_of_some(run_config: RefinerRunConfig, media: list[np.ndarray]):
    setting = dataclasses.replace(run_config.train, mirror=True, crop=16, batch_size=20)
    square = [media[0][:, :, :16]]
    originals = draw_pairs(square, run_config.refiner, setting, 1, np.random.default_rng(0)).original
    same = (originals == to_float(square[0])).all((1, 2, 3, 4))
    swapped = (originals == to_float(square[0][:, :, ::-1])).all((1, 2, 3, 4))
    assert same.any() and swapped.any() and (same | swapped).all()


def test_detail_is_measured_as_what_the_upsampled_input_lacks(run_config: RefinerRunConfig):
    """A checkerboard of single pixels averages to grey: all of it is detail, of standard deviation 1."""
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    medium = np.stack([board] * 3, -1)[None]
    clean = dataclasses.replace(run_config.refiner.degradation, blur=0.0, noise=0.0, block_share=0.0, jpeg_quality=0)
    refiner = dataclasses.replace(run_config.refiner, degradation=clean)
    assert measure_detail([medium], refiner, run_config.train, np.random.default_rng(0)) == pytest.approx(1, abs=0.01)


def test_learning_rate_rises_then_falls_to_a_twentieth():
    config = RefinerTrainConfig(steps=110, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(config, step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert learning_rate(config, 60) == pytest.approx(0.525)
    assert learning_rate(config, 110) == pytest.approx(0.05)


def test_run_leaves_a_folder_from_which_the_refiner_loads(run_config: RefinerRunConfig, media: list[np.ndarray]):
    refiner = train(run_config, media[1:], media[:1])
    folder = Path(run_config.output_dir)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.jsonl", "model", "samples.png"]
    loaded = Refiner.from_pretrained(folder / "model")
    for name, tensor in refiner.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), tensor.numpy())
    assert load_as(RefinerRunConfig, folder / "config.yaml") == run_config
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["run", "train", "train", "eval"]
    assert records[0]["films"] == 1
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.size == (4 * 20 + 5 * 4, 16 + 2 * 4)


def test_a_run_saves_the_average_and_not_the_weights(run_config: RefinerRunConfig, media: list[np.ndarray]):
    trainers = []

    class Watched(Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            trainers.append(self)

    with patch("ernie5.refiner.training.Trainer", Watched):
        returned = train(run_config, media[1:], media[:1])
    saved = Refiner.from_pretrained(Path(run_config.output_dir) / "model")
    average, raw = (getattr(trainers[0], name).network.conv_in.weight.numpy() for name in ("average", "refiner"))
    for made in (saved, returned):
        np.testing.assert_array_equal(made.network.conv_in.weight.numpy(), average)
    assert (average != raw).any()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_films_have_their_share_of_the_steps(run_config: RefinerRunConfig, media: list[np.ndarray], share: float):
    setting = dataclasses.replace(run_config.train, film_share=share, batch_size=2)
    trainer = Trainer(run_config.refiner, setting, media, media[-1:])
    asked = []

    def watched(media, refiner, train, num_frames, rng):
        asked.append(num_frames)
        raise StopIteration  # what a step asks for is known

    with patch("ernie5.refiner.training.draw_pairs", watched):
        for step in range(300):
            with pytest.raises(StopIteration):
                trainer.step(step)
    assert set(asked) <= {1, setting.film_frames}
    assert np.mean(np.array(asked) == setting.film_frames) == pytest.approx(share, abs=0.08)  # 3 deviations


def test_same_seed_repeats_the_run_and_another_does_not(run_config: RefinerRunConfig, media: list[np.ndarray]):
    def loss(seed: int) -> float:
        trainer = Trainer(run_config.refiner, dataclasses.replace(run_config.train, seed=seed), media, media[-1:])
        return [trainer.step(i) for i in range(3)][-1]

    first, again, other = loss(1), loss(1), loss(2)
    assert first == again != other


def test_average_moves_behind_the_weights(run_config: RefinerRunConfig, media: list[np.ndarray]):
    trainer = Trainer(run_config.refiner, run_config.train, media, [])
    before = trainer.average.network.conv_in.weight.numpy()
    trainer.step(0)
    after, weight = trainer.average.network.conv_in.weight.numpy(), trainer.refiner.network.conv_in.weight.numpy()
    np.testing.assert_allclose(after, 0.1 * before + 0.9 * weight, rtol=1e-4, atol=1e-6)  # decay (1 + 0) / (10 + 0)


def test_a_loss_that_is_not_finite_is_a_fault(run_config: RefinerRunConfig, media: list[np.ndarray]):
    trainer = Trainer(run_config.refiner, run_config.train, media, [])
    bias = trainer.refiner.network.conv_out.bias
    bias.set_value(paddle.full_like(bias, float("nan")))
    with pytest.raises(Fault, match="loss of step 0 is nan: lower train.learning_rate"):
        trainer.step(0)


@pytest.mark.slow
def test_training_beats_bicubic(run_config: RefinerRunConfig, media: list[np.ndarray]):
    setting = dataclasses.replace(run_config.train, steps=150, film_share=0.2, learning_rate=4e-3)
    trainer = Trainer(run_config.refiner, setting, media, media[-1:])
    losses = [trainer.step(i) for i in range(setting.steps)]
    scores, _ = evaluate(trainer.average, media, sample_steps=4, seed=0)
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
    assert scores["psnr_mean"] > scores["psnr_bicubic"] + 1


def test_evaluation_compares_with_what_the_network_is_given(config: RefinerConfig, media: list[np.ndarray]):
    scores, rows = evaluate(Refiner(config), media, sample_steps=2, seed=0)
    assert scores["psnr_mean"] == scores["psnr_bicubic"]  # before training one step changes nothing
    assert [row.strength for row in rows] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_array_equal(rows[0].bicubic, upsample(rows[0].low, 2))
    assert scores["psnr_bicubic"] == pytest.approx(np.mean([psnr(row.bicubic, row.original) for row in rows]))


def test_edges_are_shares_of_the_originals_and_flicker_is_of_films(refiner: Refiner, media: list[np.ndarray]):
    scores, rows = evaluate(refiner, media, sample_steps=2, seed=0)

    def sharpness(kind: str) -> float:
        grey = [getattr(row, kind).astype(float).mean(-1) for row in rows]
        down, right = ([np.diff(g, axis=axis) for g in grey] for axis in (1, 2))
        return np.mean([np.hypot(d[:, :, :-1], r[:, :-1]).mean() for d, r in zip(down, right, strict=True)])

    assert sharpness("original") != pytest.approx(1, rel=0.1)
    for kind in ("bicubic", "mean", "sample"):
        assert scores[f"edges_{kind}"] == pytest.approx(sharpness(kind) / sharpness("original"))
        error = getattr(rows[-1], kind).astype(float) - rows[-1].original  # the only film
        assert scores[f"flicker_{kind}"] == pytest.approx(np.abs(error[1:] - error[:-1]).mean())
        assert scores[f"flicker_{kind}"] > 0


def test_a_row_of_the_sheet_is_input_refined_original_bicubic(tmp_path: Path):
    colours = {"bicubic": 10, "mean": 20, "sample": 30, "original": 40}
    made = {name: np.full((1, 4, 6, 3), value, np.uint8) for name, value in colours.items()}
    low = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)
    write_sheet(tmp_path / "sheet.png", [Row(strength=0.5, low=low, **made)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    columns = [sheet[4:8, left : left + 6] for left in (4, 14, 24, 34)]
    np.testing.assert_array_equal(columns[0], low[0].repeat(2, 0).repeat(2, 1))
    assert [set(column.flat) for column in columns[1:]] == [{30}, {40}, {10}]


def test_an_output_folder_in_use_is_refused_before_training(run_config: RefinerRunConfig, media: list[np.ndarray]):
    folder = Path(run_config.output_dir)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is in use"):
        train(run_config, media[1:], media[:1])
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "changes, num, message",
    [
        ({}, 0, "0 media to learn from"),
        ({"crop": 18}, 4, "smaller than train.crop, 18, such as one of 16 x 20"),
        ({"film_frames": 4}, 4, "no original has train.film_frames = 4"),
    ],
)
def test_media_that_do_not_fit_are_refused(run_config: RefinerRunConfig, media, changes, num, message):
    config = dataclasses.replace(run_config, train=dataclasses.replace(run_config.train, **changes))
    with pytest.raises(UserError, match=message):
        train(config, media[1 : 1 + num], media[:1])
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/refiner").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load_and_build(path: Path):
    config = load_as(RefinerRunConfig, path)
    check_run(config, str(path))
    refiner = Refiner(dataclasses.replace(config.refiner, detail_std=0.1))
    assert refiner.refine(np.zeros((1, 8, 8, 3), np.uint8), 0.5, 1).shape == (1, 16, 16, 3)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert paddle.in_dynamic_mode()


@pytest.mark.parametrize(
    "override, message",
    [
        ("refiner.scale=3", "refiner.scale is 3: must be 2 or 4"),
        ("refiner.channels=[]", "refiner.channels is 0"),
        ("refiner.embedding_size=6", "multiple of 4"),
        ("refiner.degradation.jpeg_quality=99", "refiner.degradation.jpeg_quality is 99"),
        ("refiner.degradation.block_share=1.5", "refiner.degradation.block_share is 1.5"),
        ("train.crop=33", "train.crop is 33: must be a multiple of 2"),
        ("train.steps=0", "train.steps is 0"),
        ("data.fps=0", "data.fps is 0"),
        ("train.seed=-1", "train.seed is -1"),
        ("data.short_side=16", "data.short_side is 16: must be at least train.crop, 32"),
        ("data.max_bytes=0", "data.max_bytes is 0"),
        ("refiner.channels=[8,5000]", "refiner.channels is 5000: must be at most 4096"),
        ("refiner.channels=[8,8,8,8,8,8,8,8,8]", "refiner.len(channels) is 9"),
        ("refiner.blocks_per_level=65", "refiner.blocks_per_level is 65"),
        ("refiner.detail_std=3", "refiner.detail_std is 3.0: must lie between 0 and 2"),
        ("data.train=[]", "data.train is empty"),
    ],
)
def test_settings_out_of_range_are_refused(override: str, message: str):
    path = ROOT / "configs/refiner/digits.yaml"
    with pytest.raises(UserError, match=re.escape(message)):
        check_run(load_as(RefinerRunConfig, path, [override]), str(path))
