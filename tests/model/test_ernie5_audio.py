"""The model with sounds against a NumPy computation from its own hidden states, and itself piece by piece."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import MemberConfig
from ernie5.data.sample import Audio, Text
from ernie5.elastic.sampler import member_subnet
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.planning.parameters import count_parameters
from tests.arithmetic_audio import (
    AUDIO,
    FRAME,
    audio_coder,
    audio_model,
    codes_of,
    encoded,
    noise_sound,
    row_of,
    voice_of,
)
from tests.vision_models import text_tokenizer, vision_config

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
LEVELS, END = AUDIO.num_codebooks, AUDIO.codebook_size


@pytest.fixture
def model(tiny_model_config) -> Ernie5ForCausalLM:
    return audio_model(tiny_model_config)


@pytest.fixture(scope="module")
def tokenizer():
    return text_tokenizer()


@pytest.fixture
def samples(model, tokenizer, tmp_path):
    """One that listens, and one that speaks with a voice and writes on."""

    def sound(num_samples, seed, role):
        return Audio(noise_sound(tmp_path, num_samples, seed), role)

    listens = (sound(3 * FRAME, 0, "understand"), Text("a seven"))
    voice, said = sound(2 * FRAME, 1, "speaker"), sound(3 * FRAME + 5, 2, "generate")
    speaks = (voice, Text("Draw", loss=False), said, Text("it"))
    return [encoded(model.config, tokenizer, *segments) for segments in (listens, speaks)]


def batch_of(*rows) -> Batch:
    return make_batch(stack(list(rows)), Coders(audio=audio_coder()))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def level_losses(model: Ernie5ForCausalLM, layer_outputs: list[np.ndarray], row) -> list[float]:
    """Sums of cross-entropies by level, from what each of the top layers gave (before its tap), in float64."""
    losses = []
    (medium,) = [medium for medium in row.media if medium.is_generated]
    targets = np.concatenate([codes_of(medium.samples), np.full([1, LEVELS], END)])
    places = np.arange(medium.start - 1, medium.start + medium.length)  # BOA and the frames
    for level in range(LEVELS):
        states = layer_outputs[-LEVELS + level].astype(np.float64)[places]
        norm = model.audio.norms[level]
        normed = states / np.sqrt((states**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
        log_odds = log_softmax(normed * norm.weight.numpy() @ model.audio.heads[level].weight.numpy())
        losses.append(-log_odds[np.arange(len(targets)), targets[:, level]].sum())
    return losses


def test_loss_of_speech_is_the_mean_over_levels_of_what_the_top_layers_give(model, samples):
    row, given, taken = row_of(samples[1:]), [], []
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].numpy()[0]))
        layer.register_forward_post_hook(lambda _, inputs, output: given.append(output.hidden_states.numpy()[0]))
    losses = model.validation_losses(batch_of(row), full_subnet(model.config))
    assert float(losses.audio) == pytest.approx(np.mean(level_losses(model, given, row)), rel=1e-5)
    # Between the two levels the first code's embedding is added, where a frame or the end is predicted, and only there.
    (medium,) = [medium for medium in row.media if medium.is_generated]
    added = np.zeros_like(given[0])
    first_codes = [*codes_of(medium.samples)[:, 0], END]
    added[medium.start - 1 : medium.start + medium.length] = model.audio.code_embeddings[0].weight.numpy()[first_codes]
    np.testing.assert_allclose(taken[-1] - given[-2], added, atol=1e-5)


def test_frames_and_voices_are_embedded_in_their_places_and_text_in_the_others(model, samples):
    row = row_of(samples)
    embedded = model.embed(batch_of(row)).numpy()[0]
    expected = model.text.embed_tokens.weight.numpy()[row.input_ids]
    for medium in row.media:
        place = slice(medium.start, medium.start + medium.length)
        if medium.role == "speaker":
            expected[place] = voice_of(medium.samples) @ model.audio.voice.weight.numpy()
        else:
            codes = codes_of(medium.samples)
            expected[place] = sum(model.audio.code_embeddings[q].weight.numpy()[codes[:, q]] for q in range(LEVELS))
    np.testing.assert_allclose(embedded, expected, atol=1e-6)
    assert sorted(medium.role for medium in row.media) == ["generate", "speaker", "understand"]


def with_codes(batch: Batch, codes: np.ndarray) -> Batch:
    """The batch of one spoken sound as if it had these codes."""
    spoken = batch.audio.spoken._replace(codes=paddle.to_tensor(np.concatenate([codes, np.full([1, LEVELS], END)])))
    return batch._replace(audio=batch.audio._replace(codes=paddle.to_tensor(codes), spoken=spoken))


@pytest.mark.parametrize("level", range(LEVELS))
def test_codes_of_a_frame_reach_later_positions_alone(model, samples, level):
    """Position i predicts frame i + 1: its first code is in the hidden state there, its last one is not."""
    row = row_of(samples[1:])
    batch = batch_of(row)
    codes = batch.audio.codes.numpy()
    (medium,) = [medium for medium in row.media if medium.is_generated]
    changed = 2  # frame
    other = codes.copy()
    other[changed, level] = (codes[changed, level] + 1) % END
    final = [_final_states(model, with_codes(batch, c)) for c in (codes, other)]
    difference = np.abs(final[0] - final[1]).max(-1)
    first = medium.start + changed - (1 if level < LEVELS - 1 else 0)
    assert difference[:first].max() < 1e-5  # an expert that gets other tokens multiplies in another order
    assert (difference[first:] > 1e-4).all()


def _final_states(model, batch) -> np.ndarray:
    seen = []
    hook = model.decoder.norm.register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()[0]))
    model.validation_losses(batch, full_subnet(model.config))
    hook.remove()
    return seen[0]


def test_loss_of_text_before_a_sound_does_not_see_its_codes(model, tokenizer, tmp_path):
    said = Audio(noise_sound(tmp_path, 3 * FRAME), "generate")
    row = row_of([encoded(model.config, tokenizer, Text("a seven"), said)])
    row.loss_weight[np.flatnonzero(row.token_kind == 3)[0] :] = 0  # the text up to BOA alone
    batch = batch_of(row)
    other = (batch.audio.codes.numpy() + 3) % END
    losses = [model.validation_losses(b, full_subnet(model.config)) for b in (batch, with_codes(batch, other))]
    assert float(losses[0].text) == float(losses[1].text)
    assert float(losses[0].audio) != float(losses[1].audio)


def test_losses_of_packed_samples_are_the_sums_of_their_losses_alone(model, samples):
    rows = [row_of(samples, length=64), row_of(samples[:1]), row_of(samples[1:])]
    packed, *alone = (model(batch_of(row), full_subnet(model.config)) for row in rows)
    for name in ("text", "mtp", "audio"):
        expected = sum(float(getattr(losses, name) or 0) for losses in alone)
        assert float(getattr(packed, name)) == pytest.approx(expected, rel=1e-5), name
    assert alone[0].audio is None


def test_losses_of_two_rows_are_the_sums_of_their_losses_alone(model, samples):
    rows = [row_of([sample], length=24) for sample in (*samples, samples[1])]
    together = model(batch_of(*rows), full_subnet(model.config))
    alone = [model(batch_of(row), full_subnet(model.config)) for row in rows]
    assert float(together.audio) == pytest.approx(sum(float(losses.audio) for losses in alone[1:]), rel=1e-5)
    assert float(together.text) == pytest.approx(sum(float(losses.text) for losses in alone), rel=1e-5)


def test_a_shallow_member_speaks_with_its_top_layers(tiny_model_config, samples):
    model = audio_model(dataclasses.replace(tiny_model_config, num_hidden_layers=5))
    subnet = member_subnet(model.config, MemberConfig(name="shallow", num_layers=LEVELS + 1))
    assert subnet.layer_ids == (0, 3, 4)
    row, given = row_of(samples[1:]), []
    for layer in model.decoder.layers:
        layer.register_forward_post_hook(lambda _, inputs, output: given.append(output.hidden_states.numpy()[0]))
    losses = model(batch_of(row), subnet)
    decoder = given[: len(subnet.layer_ids)]
    assert float(losses.audio) == pytest.approx(np.mean(level_losses(model, decoder, row)), rel=1e-5)
    assert float(losses.audio) != pytest.approx(float(model(batch_of(row), full_subnet(model.config)).audio), rel=1e-3)


def test_every_parameter_that_sound_passes_gets_a_gradient(model, samples):
    model.train()
    losses = model(batch_of(row_of(samples)), full_subnet(model.config))
    (losses.text + losses.audio).backward()
    silent = [n for n, p in model.audio.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0]
    assert not silent


@pytest.mark.parametrize("has_vision", [False, True])
@pytest.mark.parametrize("speaker_dim", [0, 4])
def test_a_built_model_has_as_many_parameters_as_counted(tiny_model_config, has_vision, speaker_dim):
    vision = vision_config() if has_vision else None
    audio = dataclasses.replace(AUDIO, speaker_dim=speaker_dim)
    config = dataclasses.replace(tiny_model_config, audio=audio, vision=vision)
    built = Ernie5ForCausalLM(config)
    assert count_parameters(config).total == sum(p.size for p in {id(p): p for p in built.parameters()}.values())
    assert count_parameters(config).audio == sum(p.size for p in built.audio.parameters())
