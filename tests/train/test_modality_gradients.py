"""The gradient of each modality alone, against backward passes of its own; and training, which must not notice."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.data.sample import Audio, Image, Text
from ernie5.inference.show import show
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.subnet import full_subnet
from ernie5.parallel.recompute import recompute_blocks
from ernie5.train.checkpoint import CheckpointStore
from ernie5.train.modality_gradients import modality_gradient_norms
from ernie5.train.run import run
from tests.arithmetic_audio import AUDIO, FRAME, audio_coder, audio_model, encoded, noise_sound, row_of
from tests.runs import records
from tests.vision_models import noise_picture, text_tokenizer, vision_config, vision_tokenizer
from tests.vision_runs import vision_config as vision_run

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
NAMES = ("text", "mtp", "vision", "audio")
WEIGHTS = {"text": 1.0, "mtp": 0.3, "vision": 2.0, "audio": 0.5}


@pytest.fixture
def build(tiny_model_config):
    """A fresh model of all modalities, always the same."""
    config = dataclasses.replace(tiny_model_config, num_hidden_layers=4)
    return lambda: audio_model(config, vision_config()).train()


@pytest.fixture
def batch(build, tmp_path) -> Batch:
    config, tokenizer = build().config, text_tokenizer()
    said, drawn = Audio(noise_sound(tmp_path, 3 * FRAME), "generate"), Image(noise_picture(tmp_path), "generate")
    samples = [encoded(config, tokenizer, Text("Draw a seven"), medium, Text("it")) for medium in (said, drawn)]
    vision = VisionCoder(vision_tokenizer())
    return make_batch(stack([row_of(samples)]), Coders(vision, audio_coder()))


def terms(model, batch) -> dict[str, paddle.Tensor]:
    losses = model(batch, full_subnet(model.config))
    return {name: getattr(losses, name) * WEIGHTS[name] for name in NAMES}


def test_norms_are_those_of_the_gradients_of_each_term_alone(build, batch):
    model = build()
    norms = modality_gradient_norms(lambda: terms(model, batch), model)
    assert tuple(norms) == NAMES
    for name in NAMES:
        alone = build()
        terms(alone, batch)[name].backward()
        shared = alone.decoder.layers[len(alone.decoder.layers) - AUDIO.num_codebooks]  # level 0 is read behind it
        squares = [(p.grad.numpy().astype(np.float64) ** 2).sum() for p in shared.parameters() if p.grad is not None]
        assert norms[name] == pytest.approx(np.sqrt(sum(squares)), rel=1e-6)
        assert norms[name] > 0


def test_without_audio_the_last_layer_is_the_shared_one(tiny_model_config, batch):
    text_alone = batch._replace(vision=None, audio=None)
    model, alone = (audio_model(tiny_model_config) for _ in range(2))
    for each in (model, alone):
        each.config = dataclasses.replace(each.config, audio=None)
    norms = modality_gradient_norms(lambda: {"text": model(text_alone, full_subnet(model.config)).text}, model)
    alone(text_alone, full_subnet(alone.config)).text.backward()
    squares = [(p.grad.numpy() ** 2).sum() for p in alone.decoder.layers[-1].parameters() if p.grad is not None]
    assert norms == {"text": pytest.approx(np.sqrt(sum(squares)), rel=1e-6)}


def trained_gradients(model, batch, measures: bool) -> dict[str, np.ndarray | None]:
    """Of the whole objective, after a measurement or without one."""
    if measures:
        norms = modality_gradient_norms(lambda: terms(model, batch), model)
        assert all(norm > 0 for norm in norms.values())
        assert all(p.grad is None for p in model.parameters())
    sum(terms(model, batch).values()).backward()
    return {name: None if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("recomputes", [False, True])
def test_gradients_after_a_measurement_are_those_without_one_to_the_last_bit(build, batch, recomputes):
    models = [build(), build()]
    if recomputes:
        for model in models:
            recompute_blocks(model)
    silent, measured = (trained_gradients(model, batch, i == 1) for i, model in enumerate(models))
    for name, gradient in silent.items():
        np.testing.assert_array_equal(gradient, measured[name], err_msg=name)


def test_run_that_measures_trains_as_one_that_does_not(tmp_path):
    weights = []
    for name, every in (("silent", 0), ("measured", 2)):
        measure = f"stages.0.balance.measure_steps={every}"
        run(vision_run(tmp_path, f"train.output_dir={tmp_path / name}", measure, "train.max_steps=4"), "", show)
        weights.append(CheckpointStore(tmp_path / name / "checkpoints").open("auto").model_tensors())
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight, weights[1][name], err_msg=name)
    steps, quiet = (records(tmp_path / name, "train") for name in ("measured", "silent"))
    assert ["grad_norm" in step["modalities"]["vision"] for step in steps] == [True, False, True, False]
    assert not any("grad_norm" in term for step in quiet for term in step["modalities"].values())
