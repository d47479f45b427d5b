"""Drawing over caches, scale by scale, against one pass over the whole sequence with the same codes."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig, VisionDataConfig, VisualSamplingConfig
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Part, build_row
from ernie5.data.sample import Image, Sample, Text, Video
from ernie5.data.sequence import encode_sample
from ernie5.data.visual import VisionSettings
from ernie5.errors import UserError
from ernie5.inference.ask import draw
from ernie5.inference.coders import SIGHT
from ernie5.inference.draw import Drawing, _pick, count_latent_frames, to_pixels
from ernie5.inference.paged_sequence import PagedSequence
from ernie5.inference.reading import Reads, words_of
from ernie5.inference.request import Request
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.tokenizers.vision.resize import resize_matrix
from tests.inference.loops import engine_of, results
from tests.vision_models import (
    BITS,
    SQUARE,
    WIDE,
    noise_film,
    noise_picture,
    text_tokenizer,
    vision_config,
    vision_model,
    vision_tokenizer,
)

TEXT = text_tokenizer()
CHANCE = VisualSamplingConfig(guidance_start=1.0, guidance_end=1.0)
GUIDED = VisualSamplingConfig(guidance_start=1.5, guidance_end=3.0)


@pytest.fixture
def tokenizer():
    return vision_tokenizer()


@pytest.fixture
def coders(tokenizer):
    return Coders(VisionCoder(tokenizer))


@pytest.fixture
def model(tiny_model_config):
    return vision_model(tiny_model_config, vision_config(temporal_window=1))


def prompts_of_all_kinds(folder):
    seen = (Image(noise_picture(folder, 8, 12), "understand"), Video(noise_film(folder, 5), 4.0, "understand"))
    return [[Text("Draw a seven.")], [], [seen[0], Text("What is it?"), seen[1], Text("It moves.")]]


class Drawn:
    """Logits and bits, float32 [rows, tokens, BITS], of all frames and scales in order: first the prompts, then, with
    guidance, the unconditional rows; keys kept of each; logits behind the words that are read behind the media."""

    def __init__(self, found):
        self.logits, self.bits = (
            np.concatenate([np.stack([row[i][branch] for row in found]) for branch in range(len(found[0][0]))])
            for i in range(2)
        )
        self.kept = [row[2] for row in found]
        self.behind = [row[3] for row in found]


def drawn(model, tokenizer, prompts, resolution, num_frames, config, seed=0, words=()):
    marks = ("<boi>", "<eoi>") if num_frames == 1 else ("<bov>", "<eov>")
    begin, end = (TEXT.special_ids[mark] for mark in marks)
    requests = [
        Request(prompt=tuple(prompt), config=GenerationConfig(vision=config), seed=seed + i)
        for i, prompt in enumerate(prompts)
    ]

    def loop(task, writer):
        branches, steps = [writer.sequence], []
        if config is GUIDED:
            branches.append((yield from task.open_unconditional()))
        drawing = Drawing(task, branches, tokenizer, resolution.scales, num_frames)

        def pick(logits, scale):
            bits = task.choose(lambda rng: _pick(logits, scale, len(resolution.scales), config, rng))
            steps.append((logits, np.stack([bits] * len(branches))))
            return bits

        yield from drawing.draw(begin, pick)
        kept = branches[0].kept
        behind = yield from drawing.end(end)
        for word in words:
            (answer,) = yield Reads([words_of(writer.sequence, [word])])
            behind = answer.values[0]
        return (*(np.concatenate(column, axis=1) for column in zip(*steps, strict=True)), kept, behind)

    return Drawn(results(engine_of(model, TEXT), requests, loop))


def resized(grid, size):
    """[h, w, d] at another size, axis by axis."""
    for axis, to in enumerate(size):
        of = grid.shape[axis]
        if of != to:
            matrix = resize_matrix(to, of, "down" if to < of else "up")
            grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
    return grid


def inputs_from_bits(bits, scales):
    """bits [tokens, BITS] of all frames -> what each visual token reads, by sums of resized codes."""
    cells = [h * w for h, w in scales]
    inputs = []
    for frame in bits.reshape([-1, sum(cells), bits.shape[-1]]):
        total = np.zeros([*scales[-1], bits.shape[-1]])
        for k, part in enumerate(np.split(frame, np.cumsum(cells)[:-1])):
            total = total + resized((2 * part - 1).reshape([*scales[k], -1]), scales[-1])
            inputs.append(resized(total, scales[(k + 1) % len(scales)]).reshape([-1, bits.shape[-1]]))
    return np.concatenate(inputs).astype(np.float32)


def whole_pass(model, tokenizer, prompt, medium, bits, scales, text_behind=""):
    """The hidden states of prompt, medium and text read at once, and the places that predict the medium's bits."""
    settings = VisionSettings(model.config.vision, VisionDataConfig()).uncorrupted()
    sample = Sample(segments=(*prompt, medium, Text(text_behind)), origin="test", ends=False)
    encoded = encode_sample(sample, TEXT, media=MediaSettings(vision=settings))
    batch = make_batch(
        stack([build_row([Part(encoded, 0, len(encoded))], len(encoded), 0)]), Coders(VisionCoder(tokenizer))
    )
    inputs = paddle.to_tensor(inputs_from_bits(bits, scales))
    assert inputs.shape == batch.vision.generated.inputs.shape
    generated = batch.vision.generated._replace(inputs=inputs)
    batch = batch._replace(vision=batch.vision._replace(generated=generated))
    layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
    hidden = model.decoder(model.embed(batch), layout, full_subnet(model.config)).hidden_states[0]
    return hidden, generated.target_places


def forced_logits(model, tokenizer, prompt, medium, bits, scales):
    hidden, places = whole_pass(model, tokenizer, prompt, medium, bits, scales)
    return model.vision_generation.logits(hidden[paddle.to_tensor(places)])[:, :BITS].numpy()


def medium_file(folder, resolution, num_frames):
    size = (resolution.height, resolution.width)
    if num_frames == 1:
        return Image(noise_picture(folder, *size, seed=9), "generate")
    return Video(noise_film(folder, num_frames, *size, seed=9), 4.0, "generate")


@pytest.mark.parametrize("config", [CHANCE, GUIDED], ids=["conditional", "guided"])
@pytest.mark.parametrize(
    "resolution, num_frames", [(SQUARE, 1), (WIDE, 1), (SQUARE, 4)], ids=["square", "wide", "film"]
)
def test_logits_scale_by_scale_are_those_of_one_pass_on_the_same_codes(
    model, tokenizer, tmp_path, resolution, num_frames, config
):
    prompts = prompts_of_all_kinds(tmp_path)  # of different lengths: padded at the left
    medium = medium_file(tmp_path, resolution, num_frames)
    found = drawn(model, tokenizer, prompts, resolution, num_frames, config)
    logits, bits = found.logits, found.bits
    rows = prompts + [[]] * (len(logits) - len(prompts))  # guidance: behind <s> alone
    assert len(rows) == (6 if config is GUIDED else 3)
    for row, prompt in enumerate(rows):
        expected = forced_logits(model, tokenizer, prompt, medium, bits[row], resolution.scales)
        assert np.abs(expected).std() > 0.1
        np.testing.assert_allclose(logits[row], expected, atol=1e-4, rtol=0)


def test_text_behind_a_film_is_predicted_as_in_one_pass(model, tokenizer, tmp_path):
    prompts = prompts_of_all_kinds(tmp_path)
    medium = medium_file(tmp_path, SQUARE, 4)
    found = drawn(model, tokenizer, prompts, SQUARE, 4, CHANCE, words=TEXT.encode("It"))
    for row, prompt in enumerate(prompts):
        expected, _ = whole_pass(model, tokenizer, prompt, medium, found.bits[row], SQUARE.scales, "It")
        np.testing.assert_allclose(found.behind[row], model.logits(expected[-1]).numpy(), atol=1e-4, rtol=0)


def test_pages_of_hidden_frames_are_let_go_and_nothing_changes(model, tokenizer, tmp_path, monkeypatch):
    prompts, frame, frames = prompts_of_all_kinds(tmp_path), 4 + 16 + 1, 19
    found = drawn(model, tokenizer, prompts, SQUARE, frames, GUIDED)
    monkeypatch.setattr(PagedSequence, "let_go", lambda self: None)
    whole = drawn(model, tokenizer, prompts, SQUARE, frames, GUIDED)
    assert np.array_equal(found.bits, whole.bits)
    np.testing.assert_allclose(found.logits, whole.logits, atol=1e-5, rtol=0)
    for kept, all_keys in zip(found.kept, whole.kept, strict=True):
        before = all_keys - frames * frame + 1  # keys before the film; its last sum of all scales is not read
        assert kept <= before + 2 * frame + 2 * 64 < all_keys


def test_drawings_of_prompts_together_are_those_of_each_alone(model, coders, tmp_path):
    prompts = prompts_of_all_kinds(tmp_path)
    greedy = dataclasses.replace(GUIDED, temperature=0.0)
    together = draw(model, TEXT, coders, prompts, SQUARE, 3, greedy)
    alone = [draw(model, TEXT, coders, [prompt], SQUARE, 3, greedy)[0] for prompt in prompts]
    assert np.array_equal(np.stack(together), np.stack(alone))
    assert not np.array_equal(together[0], together[1])


def test_guidance_of_one_is_no_guidance(model, coders):
    weak = dataclasses.replace(GUIDED, guidance_start=1.0, guidance_end=1.0 + 1e-9)  # with unconditional rows
    prompts = [[Text("Draw a seven.")]]
    plain, guided = (draw(model, TEXT, coders, prompts, SQUARE, 1, config, seed=3) for config in (CHANCE, weak))
    assert np.array_equal(plain, guided)


def test_guidance_moves_the_bits_of_every_scale(model, tokenizer):
    found = drawn(model, tokenizer, [[Text("Draw a seven.")]], SQUARE, 1, GUIDED, seed=3)
    bits, (conditional, unconditional) = found.bits, found.logits
    strength = np.repeat([1.5, 2.25, 3.0], [1, 4, 16])[:, None]
    odds = unconditional + strength * (conditional - unconditional)
    rng = np.random.default_rng(3)
    uniform = np.concatenate([rng.random([n, BITS]) for n in (1, 4, 16)])
    assert np.array_equal(bits[0], uniform < 1 / (1 + np.exp(-odds)))
    assert np.array_equal(bits[0], bits[1])


def test_drawings_repeat_with_the_seed_and_change_with_another(model, coders):
    first, again, other = (draw(model, TEXT, coders, [[]], SQUARE, 2, GUIDED, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("resolution, num_frames", [(SQUARE, 1), (WIDE, 5)])
def test_drawing_has_the_size_and_the_frames_asked_for(tiny_model_config, resolution, num_frames):
    model = vision_model(tiny_model_config, vision_config(temporal_stride=2))
    frames = draw(
        model, TEXT, Coders(VisionCoder(vision_tokenizer(temporal_stride=2))), [[], []], resolution, num_frames, CHANCE
    )
    shape = (num_frames, resolution.height, resolution.width, 3)
    assert [(medium.shape, medium.dtype) for medium in frames] == [(shape, np.uint8)] * 2


def test_long_film_is_decoded_in_pieces_as_at_once(monkeypatch):
    tokenizer = vision_tokenizer(temporal_stride=2)
    latents = paddle.randn([2, 7, 4, 4, tokenizer.config.bits])
    whole = to_pixels(tokenizer, latents)
    monkeypatch.setattr("ernie5.inference.draw.DECODED_FRAMES", 3)
    pieces = to_pixels(tokenizer, latents)
    assert pieces.shape == whole.shape == (2, 13, 8, 8, 3) and whole.std() > 1
    assert np.abs(pieces.astype(int) - whole).max() <= 1  # a rounding of the last float32 bit


def test_number_of_frames_that_the_tokenizer_does_not_make_is_refused_with_one_that_it_makes():
    with pytest.raises(UserError, match="a film of 6 frames .* one more than a multiple of 2, such as 7"):
        count_latent_frames(6, vision_tokenizer(temporal_stride=2))
    assert count_latent_frames(7, vision_tokenizer(temporal_stride=2)) == 4


def test_drawing_leaves_the_model_in_its_mode_and_without_gradients(model, coders):
    model.train()
    draw(model, TEXT, coders, [[]], SQUARE, 1, CHANCE)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_model_without_vision_does_not_draw(tiny_model_config, coders):
    model = Ernie5ForCausalLM(tiny_model_config)
    with pytest.raises(UserError, match="^this model has no vision: to draw, take a model with vision$"):
        draw(model, TEXT, coders, [[]], SQUARE, 1, CHANCE)


def test_without_a_tokenizer_nothing_is_drawn(model):
    with pytest.raises(UserError, match="^there is no vision tokenizer .* vision_tokenizer/ of the model folder$"):
        draw(model, TEXT, SIGHT, [[]], SQUARE, 1, CHANCE)
