"""Answers that can only be what was asked for, whatever the model says."""

import json

import numpy as np
import pytest

from ernie5.errors import Fault, UserError
from ernie5.inference.constraints import guides
from ernie5.inference.request import Choices, JsonSchema
from tests.vision_models import text_tokenizer

TEXT = text_tokenizer()


def written(constraint, rng, most=400) -> str | None:
    """A text of words at random among those allowed; None if it has not ended."""
    guide, ids = guides(constraint, TEXT)(), []
    for _ in range(most):
        allowed = guide.allowed()
        assert allowed.shape == (TEXT.vocab_size,) and allowed.any()
        words = np.flatnonzero(allowed)
        longer = [word for word in words if word != TEXT.eos_id]
        word = int(TEXT.eos_id if allowed[TEXT.eos_id] and rng.random() < 0.5 else rng.choice(longer or words))
        guide.take(word)
        if word == TEXT.eos_id:
            return TEXT.decode(ids)
        ids.append(word)
    return None


def test_a_choice_is_always_one_of_the_texts_and_each_can_be_reached():
    texts = ("It is", "It is a 7", "größer", "字", "\U0001f600!")
    rng = np.random.default_rng(0)
    found = {written(Choices(texts), rng) for _ in range(200)}
    assert found == set(texts)


def test_a_text_may_be_spelled_by_any_words():
    guide = guides(Choices(("It",)), TEXT)()
    byte = {TEXT.data_of(word): word for word in range(TEXT.vocab_size)}
    whole = byte.get("It".encode("utf-16-be"))
    allowed = set(np.flatnonzero(guide.allowed()))
    assert byte[b"\0"] in allowed and (whole is None or whole in allowed)
    for value in "It".encode("utf-16-be"):
        assert guide.allowed()[byte[bytes([value])]]
        guide.take(byte[bytes([value])])
    assert np.flatnonzero(guide.allowed()).tolist() == [TEXT.eos_id]


def test_in_the_midst_of_a_character_only_its_other_half_may_come():
    guide = guides(Choices(("It", "Is")), TEXT)()
    byte = {TEXT.data_of(word): word for word in range(TEXT.vocab_size)}
    guide.take(byte[b"\0"])
    assert np.flatnonzero(guide.allowed()).tolist() == [byte[b"I"]]


@pytest.mark.parametrize("texts", [(), ("a", "")])
def test_a_choice_of_nothing_is_refused(texts):
    with pytest.raises(UserError, match="a choice needs one text or more, none of them empty"):
        guides(Choices(texts), TEXT)


SCHEMA = {
    "type": "object",
    "properties": {
        "digit": {"type": "integer", "minimum": 0, "maximum": 9},
        "moves": {"enum": ["left", "right", None]},
        "sure": {"type": "boolean"},
    },
    "required": ["digit", "moves"],
    "additionalProperties": False,
}


def test_json_is_what_its_schema_allows():
    pytest.importorskip("llguidance")
    rng, found = np.random.default_rng(1), []
    for _ in range(30):
        value = json.loads(written(JsonSchema(json.dumps(SCHEMA)), rng))
        assert set(value) <= {"digit", "moves", "sure"} and {"digit", "moves"} <= set(value)
        assert value["digit"] in range(10) and value["moves"] in ("left", "right", None)
        assert isinstance(value.get("sure", True), bool)
        found.append(value["digit"])
    assert len(set(found)) > 4


def test_json_of_any_kind_is_json():
    pytest.importorskip("llguidance")
    rng = np.random.default_rng(2)
    texts = [written(JsonSchema("{}"), rng, most=60) for _ in range(20)]
    values = [json.loads(text) for text in texts if text is not None]
    assert len({type(value) for value in values}) > 2


@pytest.mark.parametrize("schema, why", [("{", "cannot be read"), ('{"type": "thing"}', "cannot be followed")])
def test_what_is_no_schema_is_refused(schema, why):
    pytest.importorskip("llguidance")
    with pytest.raises(UserError, match=f"the JSON schema {why}: "):
        guides(JsonSchema(schema), TEXT)


def test_without_the_library_a_schema_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(UserError, match=r"needs llguidance: pip install 'ernie5\[constrained\]'"):
        guides(JsonSchema('{"type": "null"}'), TEXT)


def test_characters_that_cannot_be_spelled_are_a_fault_and_no_endless_answer(monkeypatch):
    pytest.importorskip("llguidance")
    guide = guides(JsonSchema('{"const": "字"}'), TEXT)()
    with pytest.raises(Fault, match="no word of the vocabulary can go on with this JSON"):
        for _ in range(20):
            guide.take(int(guide.allowed().argmax()))
