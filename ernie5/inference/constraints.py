"""Which words an answer may go on with: those of one of some texts, or of JSON that a schema allows."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from ernie5.errors import Fault, UserError
from ernie5.inference.request import Choices, JsonSchema
from ernie5.tokenizers.text import TextTokenizer

_ASCII = 128
_NO_TEXT = b"\xff"  # llguidance: a token that no grammar allows


class Guide(Protocol):
    """Follows one answer."""

    def allowed(self) -> np.ndarray:
        """bool [vocab]: the words that may come next; `</s>` where the answer may end. At least one is."""

    def take(self, word: int) -> None:
        """One of them came."""


def guides(constraint: Choices | JsonSchema | None, tokenizer: TextTokenizer) -> Callable[[], Guide] | None:
    """What makes a guide for an answer, as often as it is begun; None where there is no constraint.

    Raises UserError for choices that are none, and for what is no schema.
    """
    if constraint is None:
        return None
    if isinstance(constraint, Choices):
        if not constraint.texts or not all(constraint.texts):
            raise UserError("a choice needs one text or more, none of them empty")
        return lambda: ChoiceGuide(constraint.texts, tokenizer)
    grammar = _grammar(constraint.schema)
    JsonGuide(grammar, tokenizer)  # what the grammar cannot say is found here
    return lambda: JsonGuide(grammar, tokenizer)


class ChoiceGuide:
    """One of some texts, in any of the ways that words spell it."""

    def __init__(self, texts: Sequence[str], tokenizer: TextTokenizer):
        self._left = [text.encode("utf-16-be", "surrogatepass") for text in texts]  # of those that are still possible
        self._tokenizer = tokenizer
        self._words = _words_by_data(tokenizer)
        self._done = 0  # bytes

    def allowed(self) -> np.ndarray:
        """As in `Guide`."""
        allowed = np.zeros(self._tokenizer.vocab_size, bool)
        for left in self._left:
            if not left:
                allowed[self._tokenizer.eos_id] = True
            # In the midst of a code unit its other half must come; a word of more than a byte is of whole units.
            sizes = [1, *range(2, len(left) + 1, 2)] if left and self._done % 2 == 0 else [1] if left else []
            found = [self._words[left[:size]] for size in sizes if left[:size] in self._words]
            allowed[found] = True
        return allowed

    def take(self, word: int) -> None:
        """As in `Guide`."""
        if word != self._tokenizer.eos_id:
            data = self._tokenizer.data_of(word)
            self._left = [left[len(data) :] for left in self._left if left.startswith(data)]
            self._done += len(data)


class JsonGuide:
    """JSON without blanks, under a grammar of llguidance.

    It thinks in UTF-8, our words in UTF-16: a word of whole characters is one to it too. Half a code unit is not; so an
    ASCII character that comes as two bytes is a word of its own to the grammar, behind those of the vocabulary.
    """

    def __init__(self, grammar: str, tokenizer: TextTokenizer):
        from llguidance import LLMatcher

        self._tokenizer = tokenizer
        self._matcher = LLMatcher(_grammar_words(tokenizer), grammar, log_level=0)
        if self._matcher.is_error():
            raise UserError(f"the JSON schema cannot be followed: {_first_line(self._matcher.get_error())}")
        self._half: int | None = None  # the first byte of a code unit
        self._bytes = [_words_by_data(tokenizer)[bytes([value])] for value in range(_ASCII)]

    def allowed(self) -> np.ndarray:
        """As in `Guide`."""
        size = self._tokenizer.vocab_size
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        known = np.unpackbits(bits, bitorder="little")[: size + _ASCII].astype(bool)
        whole, characters = known[:size], known[size:]
        if self._half is None:
            allowed = whole & _spells_characters(self._tokenizer)
            allowed[self._bytes[0]] = characters.any()
            allowed[self._tokenizer.eos_id] = self._matcher.is_accepting()
        else:
            allowed = np.zeros(size, bool)
            allowed[[self._bytes[value] for value in np.flatnonzero(characters)]] = True
        if not allowed.any():
            raise Fault("no word of the vocabulary can go on with this JSON: the tokenizer lacks its characters")
        return allowed

    def take(self, word: int) -> None:
        """As in `Guide`."""
        if word == self._tokenizer.eos_id:
            return
        data = self._tokenizer.data_of(word)
        if len(data) > 1:
            self._matcher.consume_token(word)
        elif self._half is None:
            self._half = data[0]
        else:
            self._matcher.consume_token(self._tokenizer.vocab_size + data[0])
            self._half = None


@lru_cache(maxsize=4)
def _words_by_data(tokenizer: TextTokenizer) -> dict[bytes, int]:
    """UTF-16BE -> the word that spells it."""
    spelled = ((tokenizer.data_of(word), word) for word in range(tokenizer.vocab_size))
    return {data: word for data, word in spelled if data}


@lru_cache(maxsize=4)
def _spells_characters(tokenizer: TextTokenizer) -> np.ndarray:
    """bool [vocab]: words of whole characters. Where nothing can follow, llguidance allows one that spells nothing."""
    spelled = (_utf8(tokenizer.data_of(word)) for word in range(tokenizer.vocab_size))
    return np.array([text != _NO_TEXT for text in spelled])


@lru_cache(maxsize=64)
def _grammar(schema: str) -> str:
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise UserError("a JSON schema needs llguidance: pip install 'ernie5[constrained]'") from None
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    except ValueError as error:
        raise UserError(f"the JSON schema cannot be read: {_first_line(str(error))}") from None


@lru_cache(maxsize=4)
def _grammar_words(tokenizer: TextTokenizer):
    """The vocabulary as llguidance takes it, and the ASCII characters behind it."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Words:
        eos_token_id, bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        tokens = [_utf8(tokenizer.data_of(word)) for word in range(tokenizer.vocab_size)]
        tokens += [bytes([value]) for value in range(_ASCII)]
        special_token_ids = [word for word in range(tokenizer.vocab_size) if tokenizer.data_of(word) is None]

        def __call__(self, text: bytes) -> list[int]:
            return [tokenizer.vocab_size + value if value < _ASCII else 0 for value in text]

    return LLTokenizer(TokenizerWrapper(Words()), n_vocab=len(Words.tokens))


def _utf8(data: bytes | None) -> bytes:
    try:
        return data.decode("utf-16-be").encode() if data and len(data) > 1 else _NO_TEXT
    except UnicodeDecodeError:  # half of a pair of surrogates
        return _NO_TEXT


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason was given"
