"""The server over the real engine and a model of random weights: what it answers is what the engine alone answers."""

import base64
import dataclasses
import io
import re
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from PIL import Image

pytest.importorskip("openai", reason="needs the extras serve and servetest")

from ernie5.config.schema import GenerationConfig
from ernie5.data.sample import Image as Picture
from ernie5.data.sample import Message, Text
from ernie5.errors import UserError
from ernie5.inference.ask import answer, draw
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.inference.export.export_folder import export_folder
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import from_pretrained, save_pretrained
from ernie5.serving.load import load
from ernie5.serving.settings import Served
from tests.audio_models import AUDIO, audio_coder, audio_model
from tests.serving.servers import eventually
from tests.vision_models import noise_picture, vision_config, vision_model, vision_tokenizer

GREEDY = {"temperature": 0, "max_tokens": 12}
QUESTIONS = [f"{word} {i}?" for i, word in enumerate(("What is", "It moves", "Draw a", "seven") * 4)]


@pytest.fixture
def folder(tiny_model_config, tokenizer, tmp_path):
    """A model that sees and draws."""
    tokenizer.save_pretrained(tmp_path / "text")
    vision_tokenizer().save_pretrained(tmp_path / "vision")
    model = vision_model(tiny_model_config, vision_config())
    return save_pretrained(model, tmp_path / "model", tmp_path / "text", tmp_path / "vision")


@pytest.fixture
def loaded(folder) -> tuple[Served, Engine]:
    return load(folder, EngineSettings(max_pages=64, max_running=16))


@pytest.fixture
def running(serve, loaded):
    served, engine = loaded
    return serve(engine, **{field.name: getattr(served, field.name) for field in dataclasses.fields(served)})


def ask(running, content, **settings):
    messages = [{"role": "user", "content": content}]
    return running.client().chat.completions.create(model="tiny_test", messages=messages, **settings)


def alone(engine, prompts, max_tokens=12):
    """Greedy answers of an engine of its own."""
    config = GenerationConfig(max_new_tokens=max_tokens, temperature=0.0)
    return answer(engine.model, engine.tokenizer, prompts, config, coders=engine.coders)


def printable(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_clients_at_once_get_what_each_gets_alone(running):
    expected = alone(running.engine, [[Text(question)] for question in QUESTIONS])
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        whole = list(pool.map(lambda question: ask(running, question, **GREEDY), QUESTIONS))
        streamed = list(pool.map(lambda question: list(ask(running, question, stream=True, **GREEDY)), QUESTIONS))
    assert [answer.choices[0].message.content for answer in whole] == [printable(text) for text in expected]
    for chunks, text in zip(streamed, expected, strict=True):
        # Halves of a character that come in two pieces are marks in a stream.
        joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert joined.replace("\ufffd", "") == printable(text).replace("\ufffd", "")
    assert len(set(expected)) > 4, "the model says nothing worth comparing"


def test_picture_is_seen(running, tmp_path):
    path = noise_picture(tmp_path, 8, 12)
    (expected,) = alone(running.engine, [[Picture(path, "understand"), Text("What is it?")]])
    with open(path, "rb") as file:
        url = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    assert ask(running, content, **GREEDY).choices[0].message.content == printable(expected)


def test_picture_is_drawn(running):
    engine = running.engine
    answered = running.client().images.generate(model="tiny_test", prompt="seven", size="16x8", extra_body={"seed": 3})
    resolution = engine.model.config.vision.resolutions[1]
    (expected,) = draw(
        engine.model, engine.tokenizer, engine.coders, [[Text("seven")]], resolution, 1, GenerationConfig().vision, 3
    )
    with Image.open(io.BytesIO(base64.b64decode(answered.data[0].b64_json))) as picture:
        assert np.array_equal(np.asarray(picture), expected[0])


def test_turns_of_a_chat_are_read_as_in_training(serve, loaded):
    served, engine = loaded
    running = serve(engine, config=served.config, name=served.name, chat_template="chat", speaks=False)
    prompt = (Message("system", (Text("Be brief."),)), Message("user", (Text("What is it?"),)))
    (expected,) = alone(engine, [prompt])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    answered = running.client().chat.completions.create(model=served.name, messages=messages, **GREEDY)
    assert answered.choices[0].message.content == printable(expected)


def test_prefix_that_was_read_is_not_read_again(running):
    question = "What is it? It moves to the left. " * 8
    first, second = (ask(running, question, **GREEDY).usage for _ in range(2))
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens > 0 and second.prompt_tokens == first.prompt_tokens


def test_client_that_goes_frees_its_pages(running):
    for _ in range(3):
        stream = ask(running, "It moves", stream=True, temperature=1.0, max_tokens=50)
        next(iter(stream))
        stream.close()
    eventually(lambda: running.service.inside == 0 and running.engine.is_idle)
    assert running.engine.statistics().pages == 0


def test_choice_and_json_are_kept_to(running):
    pytest.importorskip("llguidance", reason="needs the extra constrained")
    choice = ask(running, "What?", extra_body={"guided_choice": ["seven", "left"]}, **GREEDY)
    assert choice.choices[0].message.content in ("seven", "left")
    schema = {"type": "object", "properties": {"a": {"enum": ["it"]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    told = ask(running, "What?", response_format=form, temperature=0, max_tokens=40).choices[0].message.content
    assert '"it"' in told


def test_schema_that_is_none_is_a_bad_request(running):
    pytest.importorskip("llguidance", reason="needs the extra constrained")
    import openai

    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError):
        ask(running, "What?", response_format=form)


def test_speech_is_made_whole_or_while_it_is_spoken(serve, tiny_model_config, tokenizer):
    model = audio_model(tiny_model_config, AUDIO)
    engine = Engine(model.eval(), tokenizer, Coders(None, audio_coder()))
    running = serve(engine, config=model.config, draws=False, name="tiny_test")
    settings = {"modalities": ["audio"], "seed": 1}
    sound = ask(running, "Say it.", audio={"format": "wav", "voice": "a"}, **settings).choices[0].message.audio
    with wave.open(io.BytesIO(base64.b64decode(sound.data))) as whole:
        samples = whole.readframes(whole.getnframes())
    assert samples
    chunks = ask(running, "Say it.", audio={"format": "pcm16", "voice": "a"}, stream=True, **settings)
    pieces = [getattr(chunk.choices[0].delta, "audio", None) for chunk in chunks]
    pieces = [base64.b64decode(piece.data) for piece in pieces if piece]
    assert len(pieces) > 1 or len(samples) <= 2 * 128
    assert b"".join(pieces) == samples


def test_an_exported_model_is_served_as_the_model_is(tiny_model_config, tokenizer, tmp_path, serve):
    tokenizer.save_pretrained(tmp_path / "text")
    config = dataclasses.replace(tiny_model_config, vocab_size=310, initializer_range=0.3)
    paddle.seed(3)
    source = save_pretrained(Ernie5ForCausalLM(config), tmp_path / "model", tmp_path / "text")
    export_folder(from_pretrained(source), source, tmp_path / "exported")
    served, engine = load(tmp_path / "exported", EngineSettings(max_pages=64))
    server = serve(engine, **{field.name: getattr(served, field.name) for field in dataclasses.fields(served)})
    _, own = load(source, EngineSettings(max_pages=64))
    texts = alone(own, [[Text(question)] for question in QUESTIONS[:3]])
    expected = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]  # JSON has no lone surrogates
    assert [ask(server, question, **GREEDY).choices[0].message.content for question in QUESTIONS[:3]] == expected
    with pytest.raises(UserError, match="is exported, with its layers and its top-k"):
        load(tmp_path / "exported", EngineSettings(), num_layers=1)
