"""Answers to prompts with media."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig, VisionDataConfig
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Part, build_row
from ernie5.data.sample import Image, Message, Sample, Text, Video
from ernie5.data.sequence import encode_sample
from ernie5.data.visual import VisionSettings
from ernie5.errors import UserError
from ernie5.inference.ask import answer, complete
from ernie5.inference.prompt import encode_prompt
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from tests.vision_models import noise_film, noise_picture, text_tokenizer, vision_config, vision_model, vision_tokenizer

TEXT = text_tokenizer()
GREEDY = GenerationConfig(max_new_tokens=8, temperature=0.0)


@pytest.fixture
def model(tiny_model_config):
    return vision_model(tiny_model_config, vision_config())


@pytest.fixture
def prompts(tmp_path):
    picture = Image(noise_picture(tmp_path, 8, 12), "understand")
    film = Video(noise_film(tmp_path, 5), 4.0, "understand")
    return [[picture, Text("What is it?")], [Text("It")], [Text("a"), film, Text("b"), picture]]


def full_forward_answer(model, prompt, steps):
    """Without a cache: every step reads the whole row anew, the prompt as training encodes it and the answer so far."""
    settings, answered = VisionSettings(model.config.vision, VisionDataConfig()).uncorrupted(), []
    encoded = encode_sample(
        Sample(segments=tuple(prompt), origin="t", ends=False), TEXT, media=MediaSettings(vision=settings)
    )
    for _ in range(steps):
        place, length = len(encoded), len(encoded) + len(answered)
        row = build_row([Part(encoded, 0, place)], length, 0)
        row.input_ids[place:] = answered
        row.position_ids[place:] = row.position_ids[place - 1] + 1 + np.arange(length - place)[:, None]
        row.mask_rows[:, 0] = length
        batch = make_batch(stack([row]), Coders(VisionCoder(vision_tokenizer())))
        layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
        hidden = model.decoder(model.embed(batch), layout, full_subnet(model.config)).hidden_states
        answered.append(int(model.logits(hidden[0, -1]).argmax()))
    return answered


def test_answers_to_prompts_together_are_those_of_full_forward_passes_of_each(model, prompts):
    texts = answer(model, TEXT, prompts, GREEDY)
    for text, prompt in zip(texts, prompts, strict=True):
        ids = full_forward_answer(model, prompt, GREEDY.max_new_tokens)
        ids = ids[: ids.index(TEXT.eos_id)] if TEXT.eos_id in ids else ids
        assert text == TEXT.decode(ids)
    assert len(set(texts)) == 3


def test_what_is_seen_changes_the_answer(model, tmp_path):
    question = Text("What is it?")
    pictures = [[Image(noise_picture(tmp_path, seed=seed), "understand"), question] for seed in (0, 1)]
    first, second = answer(model, TEXT, pictures, GREEDY)
    assert first != second


def test_complete_is_the_answer_to_text_alone(model):
    assert complete(model, TEXT, ["Draw", ""], GREEDY) == answer(model, TEXT, [[Text("Draw")], []], GREEDY)


def test_no_prompts_have_no_answers(model):
    assert answer(model, TEXT, [], GREEDY) == []


def test_media_before_a_model_of_text_alone_are_refused(tiny_model_config):
    paddle.seed(0)
    model = Ernie5ForCausalLM(tiny_model_config)
    with pytest.raises(
        UserError, match="^prompt: has the image p.png, but this model has no vision: take a model with"
    ):
        answer(model, TEXT, [[Image("p.png", "understand")]], GREEDY)


def test_media_to_generate_are_refused_in_a_prompt(model):
    with pytest.raises(UserError, match="^p.png: .* give it the role understand$"):
        answer(model, TEXT, [[Image("p.png", "generate")]], GREEDY)


def test_missing_file_is_named(model, tmp_path):
    with pytest.raises(UserError, match="nothing.png"):
        answer(model, TEXT, [[Image(str(tmp_path / "nothing.png"), "understand")]], GREEDY)


def test_prompt_of_a_chat_is_the_beginning_of_the_chat_in_training(model, tmp_path):
    seen = Image(noise_picture(tmp_path, 8, 12), "understand")
    asked = (Message("system", (Text("Be brief."),)), Message("user", (Text("Look:"), seen, Text("What is it?"))))
    prompt = encode_prompt(model, TEXT, asked)
    whole = Sample(messages=(*asked, Message("assistant", (Text("It"),))), origin="t")
    trained = encode_sample(whole, TEXT, media=MediaSettings.uncorrupted(model.config))
    assert prompt.ids[-1] == TEXT.special_ids["<|assistant|>"]
    assert prompt.ids.tolist() == trained.ids[: len(prompt)].tolist()
    assert np.array_equal(prompt.places.positions, trained.places.positions[: len(prompt)])
