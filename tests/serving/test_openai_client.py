"""OpenAI's own client, unchanged, gets what it expects."""

import base64
import io
import json
import wave

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")
import openai
from PIL import Image

from ernie5.data.sample import Audio, Message, Text, Video
from ernie5.data.sample import Image as Picture
from ernie5.inference.request import Choices, JsonSchema
from tests.vision_models import noise_film, noise_picture


@pytest.fixture
def running(serve):
    return serve()


@pytest.fixture
def client(running):
    return running.client()


def ask(client, content, **settings):
    return client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}], **settings)


def data_url(path, mime):
    with open(path, "rb") as file:
        return f"data:{mime};base64,{base64.b64encode(file.read()).decode()}"


def wav(seconds=0.5, rate=1600):
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(b"\1\2" * int(seconds * rate))
    return base64.b64encode(file.getvalue()).decode()


def test_answer_with_its_usage(client):
    answer = ask(client, "hello there")
    choice = answer.choices[0]
    assert choice.message.content == "you said: hello there" and choice.message.role == "assistant"
    assert (choice.finish_reason, choice.index, answer.model) == ("stop", 0, "tiny")
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 4, 15)
    assert usage.prompt_tokens_details.cached_tokens == 1


def test_stream_has_role_then_words_then_reason_then_usage(client):
    chunks = list(ask(client, "hello", stream=True, stream_options={"include_usage": True}))
    first, *words, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in words] == ["you", " said:", " hello"]
    assert last.choices[0].finish_reason == "stop" and last.choices[0].delta.content is None
    assert usage.choices == [] and usage.usage.completion_tokens == 3
    assert {chunk.id for chunk in chunks} == {first.id}
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in chunks[:-1])


def test_stream_without_usage_has_none(client):
    assert all("usage" not in chunk.model_dump(exclude_unset=True) for chunk in ask(client, "hello", stream=True))


def test_stream_ends_with_done(running):
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "a"}]}
    with running.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_settings_arrive_in_the_engine(running, client):
    ask(client, "a", temperature=0.5, top_p=0.7, max_completion_tokens=5, presence_penalty=1, frequency_penalty=-1,
        stop=["x", "y"], seed=3, extra_body={"top_k": 4, "repetition_penalty": 1.5})  # fmt: skip
    (request,) = running.engine.requests
    config = request.config
    assert (config.temperature, config.top_p, config.top_k, config.max_new_tokens) == (0.5, 0.7, 4, 5)
    penalties = request.penalties
    assert (penalties.presence, penalties.frequency, penalties.repetition) == (1, -1, 1.5)
    assert request.stop == ("x", "y") and request.seed == 3
    assert request.canvas is None and not request.speaks


def test_several_answers_have_seeds_of_their_own_and_one_prompt(running, client):
    answer = ask(client, "a", n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [request.seed for request in running.engine.requests] == [5, 6, 7]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 9)


def test_several_answers_stream_side_by_side(client):
    chunks = list(ask(client, "a", n=2, stream=True))
    for index in (0, 1):
        text = [c.choices[0].delta.content for c in chunks if c.choices[0].index == index]
        assert "".join(filter(None, text)) == "you said: a"


def test_length_and_stop(client):
    assert ask(client, "count", max_tokens=3).choices[0].message.content == "0 1 2 "
    assert ask(client, "count", max_tokens=3).choices[0].finish_reason == "length"
    assert ask(client, "count", stop="2").choices[0].message.content == "0 1 "


def test_formats_become_constraints(running, client):
    schema = {"type": "object", "properties": {"digit": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "digit", "schema": schema, "strict": True}}
    assert json.loads(ask(client, "a", response_format=named).choices[0].message.content) == {"digit": 7}
    ask(client, "a", response_format={"type": "json_object"})
    assert ask(client, "a", extra_body={"guided_choice": ["yes", "no"]}).choices[0].message.content == "yes"
    by_schema, any_object, choice = (request.constraint for request in running.engine.requests)
    assert json.loads(by_schema.schema) == schema
    assert json.loads(any_object.schema) == {"type": "object"} and isinstance(any_object, JsonSchema)
    assert choice == Choices(("yes", "no"))


def test_media_are_files_while_they_are_asked_about_and_gone_after(running, client, tmp_path):
    content = [
        {"type": "image_url", "image_url": {"url": data_url(noise_picture(tmp_path), "image/png")}},
        {"type": "video_url", "video_url": {"url": data_url(noise_film(tmp_path, 3), "image/gif"), "fps": 2}},
        {"type": "input_audio", "input_audio": {"data": wav(), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": wav(), "format": "wav", "role": "speaker"}},
        {"type": "text", "text": "what is it"},
    ]
    assert ask(client, content).choices[0].message.content == "you said: what is it"
    picture, film, sound, voice, text = running.engine.requests[0].prompt
    assert isinstance(picture, Picture) and isinstance(film, Video) and film.fps == 2
    assert isinstance(sound, Audio) and (sound.role, voice.role) == ("understand", "speaker")
    assert text == Text("what is it", loss=False)
    for medium in (picture, film, sound, voice):
        with pytest.raises(FileNotFoundError):
            open(medium.source, "rb")


def test_plain_template_joins_texts_by_lines(running, client):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    client.chat.completions.create(model="tiny", messages=messages)
    assert "".join(part.text for part in running.engine.requests[0].prompt) == "s\na"


def test_chat_template_keeps_turns(serve):
    running = serve(chat_template="chat")
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
        {"role": "user", "content": "c"},
    ]
    running.client().chat.completions.create(model="tiny", messages=messages)
    prompt = running.engine.requests[0].prompt
    assert [message.role for message in prompt] == ["system", "user", "assistant", "user"]
    assert prompt[2] == Message("assistant", (Text("b", loss=False),), "hm")


def test_sound_comes_as_a_wav_file(client, running):
    answer = ask(client, "speak", modalities=["text", "audio"], audio={"format": "wav", "voice": "alloy"})
    message = answer.choices[0].message
    assert message.content == "you said: speak"
    with wave.open(io.BytesIO(base64.b64decode(message.audio.data))) as sound:
        assert (sound.getframerate(), sound.getnframes(), sound.getsampwidth()) == (8000, 800, 2)
    assert running.engine.requests[0].speaks


def test_drawings_come_as_data_urls(client):
    settings = {"modalities": ["text", "image", "video"], "image": {"size": "16x8", "num_frames": 3}}
    (drawn,) = ask(client, "draw", extra_body=settings).choices[0].message.images
    assert drawn["type"] == "video_url"
    with Image.open(io.BytesIO(base64.b64decode(drawn["video_url"]["url"].partition(",")[2]))) as film:
        assert film.size == (16, 8) and film.n_frames == 3
    chunks = ask(client, "draw", stream=True, extra_body=settings)
    assert sum(bool(getattr(chunk.choices[0].delta, "images", None)) for chunk in chunks) == 1


def test_one_medium_alone_is_the_answer(client, running):
    ask(client, "seven", extra_body={"modalities": ["image"]})
    assert running.engine.requests[0].begin == "image" and running.engine.requests[0].canvas.num_frames == 1


def test_images(client, running):
    answer = client.images.generate(model="tiny", prompt="seven", n=2, size="8x8", extra_body={"seed": 1})
    pictures = [base64.b64decode(picture.b64_json) for picture in answer.data]
    assert len(set(pictures)) == 2
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert image.size == (8, 8) and image.format == "PNG"
    assert running.engine.requests[0].begin == "image"


def test_speech(client, running):
    answer = client.audio.speech.create(model="tiny", voice="alloy", input="seven", extra_body={"reference": wav()})
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert sound.getnframes() == 800
    voice, text = running.engine.requests[0].prompt
    assert voice.role == "speaker" and text.text == "seven"
    samples = client.audio.speech.create(model="tiny", voice="alloy", input="seven", response_format="pcm")
    assert len(samples.content) == 1600


def test_completions(client):
    answer = client.completions.create(model="tiny", prompt=["a", "b"], n=2, max_tokens=8)
    assert [choice.text for choice in answer.choices] == ["you said: a"] * 2 + ["you said: b"] * 2
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)
    chunks = list(client.completions.create(model="tiny", prompt="a", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "you said: a"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_models(client):
    (card,) = client.models.list().data
    assert card.id == "tiny" and card.sizes == ["8x8", "16x8"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 51}, "max_tokens"),
        ({"n": 99}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"extra_body": {"modalities": ["image", "audio"]}}, "modalities"),
        ({"extra_body": {"modalities": ["image"], "image": {"size": "9x9"}}}, "image.size"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_cannot_be_asked_is_a_bad_request_that_names_the_field(client, running, settings, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, "a", **settings)
    assert refusal.value.param == param and refusal.value.type == "invalid_request_error"
    assert running.engine.requests == []


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "a"}])
    assert refusal.value.code == "model_not_found"


def test_prompt_that_is_too_long_is_refused_before_the_engine_sees_it(client, running):
    with pytest.raises(openai.BadRequestError, match="more than the limit of 500"):
        ask(client, "a b " * 600)
    assert running.engine.requests == []


def test_what_the_engine_refuses_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError, match="does not fit"):
        ask(client, "refuse")


def test_model_without_towers_refuses_media(serve, tiny_model_config, tmp_path):
    client = serve(config=tiny_model_config, draws=False, speaks=False).client()
    picture = {"type": "image_url", "image_url": {"url": data_url(noise_picture(tmp_path), "image/png")}}
    sound = {"type": "input_audio", "input_audio": {"data": wav(), "format": "wav"}}
    for content, settings in (
        ([picture], {}),
        ([sound], {}),
        ("a", {"modalities": ["text", "audio"]}),
        ("a", {"extra_body": {"modalities": ["image"]}}),
    ):
        with pytest.raises(openai.BadRequestError, match="this model"):
            ask(client, content, **settings)
