"""Many requests at once give what each gives alone, whatever happens to their pages."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig
from ernie5.data.sample import Image, Text
from ernie5.errors import UserError
from ernie5.inference import write as module
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.inference.request import Canvas, Choices, Finished, Penalties, Request, Sound
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.subnet import full_subnet
from tests.audio_models import audio_coder, audio_model
from tests.vision_models import SQUARE, noise_picture, text_tokenizer, vision_config, vision_tokenizer

TEXT = text_tokenizer()
GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0)
DRAWN = GenerationConfig(max_new_tokens=12, temperature=1.0, top_p=1.0)


@pytest.fixture(scope="module")
def coders() -> Coders:
    return Coders(VisionCoder(vision_tokenizer()), audio_coder())


@pytest.fixture
def model(tiny_model_config):
    """All modalities and a prediction block; weights large enough that one word is likelier than another."""
    config = dataclasses.replace(tiny_model_config, initializer_range=0.3, num_nextn_predict_layers=1)
    return audio_model(config, vision=vision_config()).eval()


def answers(engine: Engine, requests) -> list[list]:
    """Pieces of each answer, its end last; texts are joined."""
    found = {engine.submit(request): [] for request in requests}
    for number, what in engine.run():
        pieces = found[number]
        if isinstance(what, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += what
        else:
            pieces.append(what)
    assert engine.pool.held == 0
    return list(found.values())


def same(first, second) -> bool:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one[:-1], other[:-1], strict=True):
            a, b = (x.samples if isinstance(x, Sound) else x for x in (a, b))
            if not np.array_equal(a, b):
                return False
        if one[-1].reason != other[-1].reason or one[-1].usage.completion_tokens != other[-1].usage.completion_tokens:
            return False
    return True


def mixed(folder) -> list[Request]:
    """Text, pictures, films and sounds, greedy and drawn by chance, in prompts of several kinds."""
    picture = Image(noise_picture(folder, 8, 12), "understand")
    canvas = Canvas(SQUARE, 3)
    return [
        Request(prompt=(Text("What is it? " * 12),), config=GREEDY),
        Request(prompt=(picture, Text("What is it?")), config=DRAWN, seed=1),
        Request(prompt=(Text("Draw a seven."),), begin="image", canvas=canvas, seed=2),
        Request(prompt=(Text("left"),), begin="video", canvas=canvas, seed=3),
        Request(prompt=(Text("It"), picture), begin="audio", seed=4),
        Request(prompt=(), config=DRAWN, canvas=canvas, seed=5),
        Request(prompt=(Text("What is it? " * 12), Text("now")), config=GREEDY),
    ]


def test_requests_of_all_kinds_together_get_what_each_gets_alone(model, coders, tmp_path):
    requests = mixed(tmp_path)
    alone = [answers(Engine(model, TEXT, coders), [request])[0] for request in requests]
    together = answers(Engine(model, TEXT, coders), requests)
    assert same(together, alone)
    assert [one[-1].reason for one in alone].count("failed") == 0
    assert together[2][0].shape == (1, 8, 8, 3) and together[3][0].shape == (3, 8, 8, 3)
    assert isinstance(together[4][0], Sound)


def test_long_prompts_are_read_in_pieces_beside_others(model, coders, tmp_path):
    requests = mixed(tmp_path)
    whole = answers(Engine(model, TEXT, coders), requests)
    engine = Engine(model, TEXT, coders, EngineSettings(max_step_tokens=7, share_prefixes=False))
    assert same(answers(engine, requests), whole)
    assert engine.statistics().steps > 40


def test_requests_that_lose_their_pages_are_begun_anew_and_told_once(model, coders, tmp_path):
    requests = mixed(tmp_path) * 2
    plenty = answers(Engine(model, TEXT, coders), requests)
    engine = Engine(model, TEXT, coders, EngineSettings(max_pages=8))
    assert same(answers(engine, requests), plenty)
    assert engine.statistics().begun_anew > 0


def test_what_cannot_be_held_at_all_is_refused_with_a_remedy(model, coders):
    engine = Engine(model, TEXT, coders, EngineSettings(max_pages=2))
    with pytest.raises(UserError, match="may have .* tokens together, and there is room for 128: shorten the prompt"):
        engine.submit(Request(prompt=(Text("a" * 400),), config=GREEDY))
    film = Request(prompt=(Text("left"),), begin="video", canvas=Canvas(SQUARE, 19))
    (pieces,) = answers(engine, [film])
    assert pieces[-1].reason == "failed" and "all 2 pages of 64 tokens are in use: ask for" in pieces[-1].message
    assert pieces[-1].is_refused
    ((_, end),) = answers(engine, [Request(prompt=(Text("What is it?"),), config=GREEDY)])  # it goes on
    assert end.reason == "length"


def test_what_was_read_before_is_not_read_again(model, coders, tmp_path):
    picture = Image(noise_picture(tmp_path, 8, 12), "understand")
    system = (Text("What is it? " * 30), picture)
    first, second = (Request(prompt=(*system, Text(end)), config=GREEDY) for end in ("It is", "left"))
    engine = Engine(model, TEXT, coders)
    found = answers(engine, [first]) + answers(engine, [second]) + answers(engine, [first])
    apart = [answers(Engine(model, TEXT, coders), [request])[0] for request in (first, second, first)]
    assert same(found, apart)
    cached = [one[-1].usage.cached_tokens for one in found]
    assert cached[0] == 0 and cached[1] >= 64 and cached[2] >= cached[1] and cached[1] % 64 == 0
    other = Image(noise_picture(tmp_path, 8, 12, seed=5), "understand")
    pictures_first = [Request(prompt=(one, Text("a" * 150)), config=GREEDY) for one in (picture, other)]
    found = answers(engine, pictures_first)
    assert [one[-1].usage.cached_tokens for one in found] == [0, 0]
    off = Engine(model, TEXT, coders, EngineSettings(share_prefixes=False))
    assert answers(off, [first])[0][-1].usage.cached_tokens == answers(off, [first])[0][-1].usage.cached_tokens == 0


def test_a_cancelled_request_frees_its_pages_and_others_go_on(model, coders, tmp_path):
    requests = mixed(tmp_path)[:2]
    engine, expected = Engine(model, TEXT, coders), answers(Engine(model, TEXT, coders), requests[1:])
    numbers = [engine.submit(request) for request in requests]
    events = engine.step()
    held = engine.pool.held
    engine.cancel(numbers[0])
    assert engine.pool.held < held
    events += engine.run()
    ends = {number: what for number, what in events if isinstance(what, Finished)}
    assert ends[numbers[0]].reason == "cancelled" and ends[numbers[1]].reason == expected[0][-1].reason
    text = "".join(what for number, what in events if number == numbers[1] and isinstance(what, str))
    assert text == expected[0][0]
    waiting = engine.submit(requests[0])
    engine.cancel(waiting)
    assert [what.reason for _, what in engine.run()] == ["cancelled"] and engine.is_idle


def test_speculation_gives_the_same_text_and_counts_its_guesses(model, coders, tmp_path):
    requests = mixed(tmp_path)
    longer = [dataclasses.replace(request.config, max_new_tokens=40) for request in requests]
    requests = [dataclasses.replace(one, config=config) for one, config in zip(requests, longer, strict=True)]
    requests.append(Request(prompt=(Text("It"),), config=GREEDY, penalties=Penalties(repetition=1.3)))
    engine = Engine(model, TEXT, coders, EngineSettings(speculate=True))
    assert same(answers(engine, requests), answers(Engine(model, TEXT, coders), requests))
    found = engine.statistics()
    assert found.drafted > 50 and 0 <= found.accepted < found.drafted


def test_right_guesses_save_steps_and_wrong_ones_change_nothing(model, monkeypatch):
    request = Request(prompt=(Text("What is it?"),), config=dataclasses.replace(GREEDY, max_new_tokens=31))
    ids, draw = [], module._draw
    with monkeypatch.context() as patch:
        patch.setattr(module, "_draw", lambda *given: ids.append(int(draw(*given))) or np.int64(ids[-1]))
        plain = Engine(model, TEXT)
        expected = answers(plain, [request])
    for knows in (True, False):
        engine, left = Engine(model, TEXT, settings=EngineSettings(speculate=True)), iter(ids[1::2])
        monkeypatch.setattr(engine.reader, "guess", lambda drafts, left=left, knows=knows: [next(left) if knows else 5])
        assert same(answers(engine, [request]), expected)
        found = engine.statistics()
        assert (found.drafted, found.accepted) == ((15, 15) if knows else (30, ids[1:].count(5)))
        assert found.steps < plain.statistics().steps * 0.6 if knows else found.steps >= plain.statistics().steps


def test_guesses_are_those_of_the_prediction_block_over_the_whole_text(model, monkeypatch):
    """Against one pass of the block over all pairs."""
    engine, seen = Engine(model, TEXT, settings=EngineSettings(speculate=True)), []
    guess = engine.reader.guess

    def spying(drafts):
        words = guess(drafts)
        seen.extend(words)
        return words

    engine.reader.guess = spying
    request = Request(prompt=(Text("What is it?"),), config=dataclasses.replace(GREEDY, max_new_tokens=9))
    ids, write, draw = [TEXT.bos_id, *TEXT.encode("What is it?")], [], module._draw
    monkeypatch.setattr(module, "_draw", lambda *given: write.append(int(draw(*given))) or np.int64(write[-1]))
    answers(engine, [request])
    whole = np.array([ids + write])
    length = whole.shape[1]
    mask = np.stack([np.full(length, length), np.arange(length)], -1)[None].astype(np.int32)
    positions = paddle.to_tensor(np.repeat(np.arange(length, dtype=np.float32)[None, :, None], 3, 2))
    subnet, layout = full_subnet(model.config), make_layout(mask, positions, model.config.attention)
    with paddle.no_grad():
        decoded = model.decoder(model.text.embed(paddle.to_tensor(whole)), layout, subnet)
        following = model.text.embed(paddle.to_tensor(np.roll(whole, -1, 1)))
        hidden = model.predict_second_next(decoded.residual, following, layout, subnet).hidden_states
        expected = model.logits(hidden[0]).argmax(-1).numpy()  # of pair i: the word i + 2
    right, place, made = expected[len(ids) - 1 : -2], 0, []
    while place < len(right):  # a guess for each word that is read anew; none for a word that was guessed
        made.append(int(right[place]))
        place += 2 if made[-1] == write[place + 1] else 1
    assert seen == made


def test_a_model_without_a_prediction_block_does_not_speculate(tiny_model_config):
    model = audio_model(dataclasses.replace(tiny_model_config, num_nextn_predict_layers=0))
    with pytest.raises(UserError, match="speculate: the model has no prediction block"):
        Engine(model, TEXT, settings=EngineSettings(speculate=True))


def test_stop_texts_end_an_answer_and_are_not_part_of_it(model):
    request = Request(prompt=(Text("What is it?"),), config=dataclasses.replace(GREEDY, max_new_tokens=40))
    ((text, end),) = answers(Engine(model, TEXT), [request])
    stop = text[5:8]
    ((cut, stopped),) = answers(Engine(model, TEXT), [dataclasses.replace(request, stop=("never", stop))])
    assert cut == text[: text.index(stop)] and stopped.reason == "stop" and end.reason == "length"


def test_a_choice_is_one_of_its_texts_and_the_likelier_one(model):
    texts = ("left", "It is a seven", "It")
    for seed in range(4):
        config = dataclasses.replace(DRAWN, max_new_tokens=60)
        request = Request(prompt=(Text("What"),), config=config, constraint=Choices(texts), seed=seed)
        ((text, end),) = answers(Engine(model, TEXT), [request])
        assert text in texts and end.reason == "stop"


def test_a_fault_of_one_request_leaves_the_others_alone(model, coders, monkeypatch, tmp_path):
    requests = mixed(tmp_path)[:3]
    expected = answers(Engine(model, TEXT, coders), [requests[0], requests[2]])
    engine = Engine(model, TEXT, coders)
    draw = module._draw

    def failing(task, *given):
        if task.request.seed == 1:
            raise RuntimeError("broken on purpose")
        return draw(task, *given)

    monkeypatch.setattr(module, "_draw", failing)
    first, broken, last = answers(engine, requests)
    assert same([first, last], expected)
    assert broken[-1].reason == "failed" and "broken on purpose" in broken[-1].message and not broken[-1].is_refused


def test_media_that_cannot_be_encoded_fail_their_request_alone(model, coders, monkeypatch, tmp_path):
    requests = mixed(tmp_path)[:2]
    expected = answers(Engine(model, TEXT, coders), requests[:1])

    def failing(self, batch):
        raise MemoryError("no room for a picture")

    monkeypatch.setattr(type(model), "embed", failing)
    whole, broken = answers(Engine(model, TEXT, coders), requests)
    assert same([whole], expected)
    assert broken[-1].reason == "failed" and broken[-1].message == "MemoryError: no room for a picture"


def test_a_step_that_fails_fails_those_that_it_read_for_and_frees_their_pages(model, coders, monkeypatch, tmp_path):
    requests = mixed(tmp_path)[:2]
    expected = answers(Engine(model, TEXT, coders), requests[:1])
    engine = Engine(model, TEXT, coders)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "logits", lambda self, hidden: 1 / 0)
        found = answers(engine, requests)
    assert [one[-1].reason for one in found] == ["failed"] * 2 and "ZeroDivisionError" in found[0][-1].message
    assert engine.statistics().known_pages == 0
    assert same(answers(engine, requests[:1]), expected)


def test_no_words_are_no_answer(model):
    request = Request(prompt=(Text("It"),), config=dataclasses.replace(GREEDY, max_new_tokens=0))
    ((end,),) = answers(Engine(model, TEXT), [request])
    assert end.reason == "length" and end.usage.completion_tokens == 0


def test_experts_are_counted(model, coders, tmp_path):
    engine = Engine(model, TEXT, coders)
    answers(engine, mixed(tmp_path)[:2])
    found = engine.statistics()
    routing = [i for i, block in model.blocks().items() if block.routes and i < model.config.num_hidden_layers]
    assert sorted(found.expert_use) == routing
    top_k = model.config.moe.num_experts_per_tok
    assert all(load.sum() == top_k * found.tokens_read for load in found.expert_use.values())
