"""Text and media by turns, with the words that the model would say given by hand."""

import dataclasses

import numpy as np
import pytest

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, VisualSamplingConfig
from ernie5.data.sample import Image, Message, Text
from ernie5.errors import UserError
from ernie5.inference import write as module
from ernie5.inference.ask import converse, speak
from ernie5.inference.generate import generate_ids
from ernie5.inference.reading import Reads, words_of
from ernie5.inference.request import Canvas, Request, Sound
from ernie5.inference.speak import Speaking
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from tests.audio_models import FRAME, RATE, audio_coder, audio_model
from tests.inference.loops import engine_of, results
from tests.vision_models import SQUARE, noise_picture, text_tokenizer, vision_config, vision_model, vision_tokenizer

TEXT = text_tokenizer()
BOI, BOV, BOA = (TEXT.special_ids[name] for name in ("<boi>", "<bov>", "<boa>"))
CONFIG = GenerationConfig(max_new_tokens=30, temperature=0.0)


@pytest.fixture
def model(tiny_model_config):
    return vision_model(tiny_model_config, vision_config())


@pytest.fixture
def canvas():
    return Canvas(SQUARE, num_frames=3)


@pytest.fixture
def coders():
    return Coders(VisionCoder(vision_tokenizer()))


@pytest.fixture
def say(monkeypatch):
    """Makes the model say these ids, whatever it predicts; gives the logits from which it would have chosen."""

    def script(ids):
        left, seen = list(ids), []

        def draw(task, logits, prompt_ids, ids, guide, rng):
            seen.append(logits)
            return np.int64(left.pop(0))

        monkeypatch.setattr(module, "_draw", draw)
        return seen

    return script


def test_media_come_where_their_marks_are_said_and_text_goes_on_to_the_end(model, canvas, coders, say):
    say([*TEXT.encode("What"), BOI, *TEXT.encode("It"), BOV, *TEXT.encode("left"), TEXT.eos_id, 7])
    pieces = list(converse(model, TEXT, [Text("Draw")], CONFIG, canvas, coders=coders))
    media = [piece for piece in pieces if not isinstance(piece, str)]
    kinds = "".join(piece if isinstance(piece, str) else "|" for piece in pieces)
    assert kinds == "What|It|left"
    assert [medium.shape for medium in media] == [(1, 8, 8, 3), (3, 8, 8, 3)]


def test_text_behind_a_drawing_has_read_it_and_not_the_unconditional_branch(model, canvas, coders, say):
    words = [BOI, *TEXT.encode("It"), BOV, *TEXT.encode("left"), TEXT.eos_id]
    chosen = VisualSamplingConfig(temperature=0.0, guidance_start=1.0, guidance_end=1.0)
    behind = []
    for end in (1.0, 1.0 + 1e-9):  # without and with unconditional rows; the bits are the same
        seen = say(words)
        config = dataclasses.replace(CONFIG, vision=dataclasses.replace(chosen, guidance_end=end))
        media = [
            p for p in converse(model, TEXT, [Text("Draw")], config, canvas, coders=coders) if not isinstance(p, str)
        ]
        behind.append((seen, media))
    (plain, first), (guided, second) = behind
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for one, other in zip(plain, guided, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)


def test_without_a_canvas_the_text_is_that_of_the_text_loop(model, tmp_path):
    config = GenerationConfig(max_new_tokens=20, temperature=1.0, top_p=1.0)
    prompt = [TEXT.bos_id, *TEXT.encode("Draw")]
    (ids,) = np.stack(list(generate_ids(model, [prompt], config, TEXT.eos_id, 4)), 1).tolist()
    assert "".join(converse(model, TEXT, [Text("Draw")], config, seed=4)) == TEXT.decode(ids)
    seen = Image(noise_picture(tmp_path), "understand")
    assert "".join(converse(model, TEXT, [seen, Text("Draw")], config, seed=4)) != TEXT.decode(ids)


def test_no_more_than_max_new_tokens_words_are_said(model, canvas, coders, say):
    seen = say([BOI] * 40)
    config = dataclasses.replace(CONFIG, max_new_tokens=3)
    pieces = list(converse(model, TEXT, [], config, canvas, coders=coders))
    assert len(seen) == 3 and sum(not isinstance(piece, str) for piece in pieces) == 3


def test_film_length_that_the_tokenizer_does_not_make_is_refused_before_anything_is_said(model):
    coders = Coders(VisionCoder(vision_tokenizer(temporal_stride=2)))
    with pytest.raises(UserError, match="a film of 2 frames"):
        next(converse(model, TEXT, [], CONFIG, Canvas(SQUARE, num_frames=2), coders=coders))


@pytest.fixture
def all_coders():
    return Coders(VisionCoder(vision_tokenizer()), audio_coder())


@pytest.fixture
def talker(tiny_model_config):
    return audio_model(tiny_model_config, vision=vision_config())


def test_sounds_come_where_their_mark_is_said_and_text_and_pictures_go_on(talker, canvas, all_coders, say):
    say([*TEXT.encode("What"), BOA, *TEXT.encode("It"), BOI, BOA, *TEXT.encode("left"), TEXT.eos_id])
    pieces = list(converse(talker, TEXT, [Text("Draw")], CONFIG, canvas, coders=all_coders))
    assert "".join(piece if isinstance(piece, str) else "|" for piece in pieces) == "What|It||left"
    sound, picture, other = (piece for piece in pieces if not isinstance(piece, str))
    assert picture.shape == (1, 8, 8, 3)
    for spoken in (sound, other):
        assert isinstance(spoken, Sound) and spoken.sample_rate == RATE
        assert spoken.samples.dtype == np.float32 and len(spoken.samples) % FRAME == 0 and len(spoken.samples)


def test_first_sound_is_the_one_that_speak_makes(talker, all_coders, say):
    say([BOA, TEXT.eos_id])
    config = dataclasses.replace(CONFIG, audio=AudioSamplingConfig(temperature=0.0, max_seconds=0.8))
    sound, *_ = converse(talker, TEXT, [Text("Draw")], config, coders=all_coders)
    (expected,) = speak(talker, TEXT, all_coders, [[Text("Draw")]], config.audio)
    assert np.array_equal(sound.samples, expected)


def test_text_behind_a_sound_has_read_it_and_not_the_unconditional_branch(talker, all_coders, say):
    chosen, behind = AudioSamplingConfig(temperature=0.0, max_seconds=0.8), []
    for guidance in (1.0, 1.0 + 1e-9):  # without and with unconditional rows; the codes are the same
        seen = say([BOA, *TEXT.encode("It"), BOA, *TEXT.encode("left"), TEXT.eos_id])
        config = dataclasses.replace(CONFIG, audio=dataclasses.replace(chosen, guidance=guidance))
        pieces = converse(talker, TEXT, [Text("Draw")], config, coders=all_coders)
        behind.append((seen, [piece.samples for piece in pieces if isinstance(piece, Sound)]))
    (plain, first), (guided, second) = behind
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for one, other in zip(plain, guided, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)


def test_mark_of_the_end_is_read_behind_a_sound(talker, all_coders, say):
    seen = say([BOA, TEXT.eos_id])
    config = dataclasses.replace(CONFIG, audio=AudioSamplingConfig(temperature=0.0, guidance=1.0, max_seconds=0.8))
    list(converse(talker, TEXT, [Text("Draw")], config, coders=all_coders))

    def loop(task, writer):
        speaking = Speaking(task, [writer.sequence])
        codes = yield from speaking.begin(BOA)
        while codes is not None:
            codes = yield from speaking.next_frame()
        (answer,) = yield Reads([words_of(writer.sequence, [TEXT.special_ids["<eoa>"]])])
        return answer.values[0]

    request = Request(prompt=(Text("Draw"),), config=config)
    (expected,) = results(engine_of(talker, TEXT, all_coders), [request], loop)
    np.testing.assert_allclose(seen[1], expected, atol=1e-4, rtol=0)


def test_without_a_codec_the_mark_of_a_sound_is_a_word(talker, say):
    say([BOA, *TEXT.encode("It"), TEXT.eos_id])
    assert "".join(converse(talker, TEXT, [], CONFIG)) == "It"


def test_text_that_may_begin_a_stop_text_stands_before_the_medium_behind_it(model, canvas, coders, say):
    say([*TEXT.encode("left"), BOI, *TEXT.encode("It"), TEXT.eos_id])
    request = Request(prompt=(Text("Draw"),), config=CONFIG, canvas=canvas, stop=("left!",))
    engine = engine_of(model, TEXT, coders)
    engine.submit(request)
    pieces = [what for _, what in engine.run()][:-1]
    assert "".join(piece if isinstance(piece, str) else "|" for piece in pieces) == "left|It"


def test_a_turn_of_a_chat_ends_where_its_mark_is_said(model, say):
    end = TEXT.special_ids["<|end|>"]
    say([*TEXT.encode("It"), end, 7])
    chat = [Message("user", (Text("What is it?"),))]
    assert "".join(converse(model, TEXT, chat, CONFIG)) == "It"
    say([*TEXT.encode("It"), end, *TEXT.encode("left"), TEXT.eos_id])
    assert "".join(converse(model, TEXT, [Text("What is it?")], CONFIG)) == "Itleft"  # of a document, it is a word
