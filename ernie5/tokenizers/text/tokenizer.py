"""The text tokenizer: UTF-16BE byte-pair encoding (report §3.1) with sentencepiece as the engine."""

import hashlib
import importlib.util
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ernie5.errors import UserError
from ernie5.tokenizers.text.merges import Merges
from ernie5.tokenizers.text.model_file import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, read_pieces, write_model
from ernie5.tokenizers.text.special import CHAT_TEMPLATE, ROLES, SPECIAL_IDS, SPECIAL_TOKENS
from ernie5.tokenizers.text.stream import StreamDecoder, decode_units
from ernie5.tokenizers.text.units import BASE_SYMBOLS, JOINT_BREAK, UnitSpeller, bytes_of_piece

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
NUM_FIXED = len(SPECIAL_TOKENS) + len(BASE_SYMBOLS)  # the ids that every vocabulary has, before the learned ones
_FORMAT = 1  # of the saved folder; another number is another way to read ids
_SPECIAL_TOKEN = re.compile(f"({'|'.join(map(re.escape, SPECIAL_TOKENS))})")
_NAMED_TOKENS = {f"{name}_token": SPECIAL_TOKENS[i] for i, name in enumerate(("pad", "unk", "bos", "eos", "sep"))}


class TextTokenizer:
    """Text to ids and back, without loss for every Python string.

    Ids: the special tokens, the 256 bytes, the joint break, the code units of the alphabet, then the merges in the
    order they were learned. `train_tokenizer` makes one; `from_pretrained` loads one.
    """

    def __init__(self, model: bytes):
        """`model` is the content of a `tokenizer.model`. Raises ValueError when it is not one of ours."""
        pieces = [piece.text for piece in _checked(read_pieces(model))]
        self._model = model
        self._encode: Callable[[str], list[int]] = _engine(model) or self._merged
        self._ids = {piece: i for i, piece in enumerate(pieces) if i >= len(SPECIAL_TOKENS)}
        learned = pieces[NUM_FIXED:]
        self._speller = UnitSpeller(frozenset(piece for piece in learned if len(piece) == 1))
        self._merges = Merges({piece: rank for rank, piece in enumerate(learned) if len(piece) > 1})
        self._data_of_id: list[bytes | None] = [None] * len(SPECIAL_TOKENS)
        self._data_of_id += [bytes([value]) for value in range(256)] + [b""]
        self._data_of_id += [bytes_of_piece(piece) for piece in learned]
        self._text_of_special = dict(enumerate(SPECIAL_TOKENS))
        self.special_ids: dict[str, int] = dict(SPECIAL_IDS)

    def __reduce__(self) -> tuple[type["TextTokenizer"], tuple[bytes]]:
        return TextTokenizer, (self._model,)  # so that worker processes can be handed one

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._data_of_id)

    @property
    def pad_id(self) -> int:
        return SPECIAL_IDS["<pad>"]

    @property
    def bos_id(self) -> int:
        return SPECIAL_IDS["<s>"]

    @property
    def eos_id(self) -> int:
        return SPECIAL_IDS["</s>"]

    @property
    def sep_id(self) -> int:
        return SPECIAL_IDS["<sep>"]

    @property
    def digest(self) -> str:
        """sha256 (hex) of all that decides the ids."""
        return hashlib.sha256(b"ernie5 text tokenizer %d\n" % _FORMAT + self._model).hexdigest()

    def encode(self, text: str, bpe_dropout: float = 0.0, seed: int | None = None) -> list[int]:
        """The ids of a text, never a special token's, whatever the text says.

        With `bpe_dropout` in (0, 1] each merge is left out with that probability (arXiv:1910.13267): a pure function of
        (text, bpe_dropout, seed). 1 gives code units and bytes. Raises UserError for a probability without a seed.
        """
        symbols = self._speller.spell(text)
        if bpe_dropout == 0.0:
            return self._encode(symbols)
        if not 0.0 < bpe_dropout <= 1.0:
            raise UserError(f"bpe_dropout is {bpe_dropout}: give a probability from 0 to 1")
        if seed is None:
            raise UserError(
                f"bpe_dropout is {bpe_dropout} but seed is None: give a seed, so that the ids can be had again"
            )
        return self._merged(symbols, bpe_dropout, seed)

    def _merged(self, symbols: str, bpe_dropout: float = 0.0, seed: int = 0) -> list[int]:
        ids = self._ids
        return [ids[piece] for piece in self._merges.split(symbols, bpe_dropout, seed)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of any sequence of ids; never raises. `decode(encode(text)) == text` for every Python string.

        Half a code unit and an id that is no token become U+FFFD.
        """
        if len(ids) and min(ids) >= NUM_FIXED and max(ids) < self.vocab_size:  # whole code units only: one step
            return decode_units(b"".join([self._data_of_id[i] for i in ids]))
        decoder = self.stream(skip_special_tokens)
        return "".join([decoder.push(i) for i in ids]) + decoder.finish()

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder that takes one id at a time."""
        return StreamDecoder(self._data_of_id, self._text_of_special, skip_special_tokens)

    def data_of(self, token_id: int) -> bytes | None:
        """What an id spells, UTF-16BE: whole code units, one byte of one, nothing (the joint break); None: special."""
        return self._data_of_id[token_id]

    def token_text(self, token_id: int) -> str:
        """How an id is shown to people: a special token's name, `<0xD8>` for a byte, else its text."""
        if token_id < len(SPECIAL_TOKENS):
            return SPECIAL_TOKENS[token_id]
        data = self._data_of_id[token_id]
        if len(data) < 2:
            return f"<0x{data.hex().upper()}>" if data else "<joint break>"
        return decode_units(data)

    def learned_pieces(self) -> list[str]:
        """The texts of the learned ids, in the order of the ids: code units first, then merges."""
        return [self.token_text(i) for i in range(NUM_FIXED, self.vocab_size)]

    def encode_template(self, template: str, **fields: str) -> list[int]:
        """The ids of a template whose special tokens count as such, and whose `{fields}` are ordinary text.

        `encode_template("<s><|user|>{question}<|end|>", question=text)` is safe for any text. `{{` is a brace, as in
        `str.format`. Raises UserError when a field of the template is not given.
        """
        ids: list[int] = []
        for literal, name, _, _ in string.Formatter().parse(template):
            for part in _SPECIAL_TOKEN.split(literal):
                ids += [SPECIAL_IDS[part]] if part in SPECIAL_IDS else self.encode(part)
            if name is not None:
                if name not in fields:
                    raise UserError(f"the template has a field {{{name}}} that is not given: pass {name}=...")
                ids += self.encode(fields[name])
        return ids

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
    ) -> list[tuple[list[int], bool]]:
        """A conversation as (ids, whether they carry loss), in order.

        A message has a `role` (system, user, assistant, tool), `content`, and an assistant's may have
        `reasoning_content`. What the assistant writes carries loss: its reasoning, its content and its end token.
        Content is ordinary text. Raises UserError for another role or a missing content.
        """
        parts: list[tuple[list[int], bool]] = [([self.bos_id], False)]
        for i, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise UserError(f"message {i} has the role {role!r}: give one of {', '.join(ROLES)}")
            if not isinstance(content, str):
                raise UserError(f"message {i} has the content {content!r}: give a string")
            reasoning = message.get("reasoning_content") or ""
            thought = "<think>{reasoning}</think>" if reasoning else ""
            body = self.encode_template(thought + "{content}<|end|>", reasoning=reasoning, content=content)
            parts += [([SPECIAL_IDS[f"<|{role}|>"]], False), (body, role == "assistant")]
        if add_generation_prompt:
            parts.append(([SPECIAL_IDS["<|assistant|>"]], False))
        return parts

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the files that PaddleNLP and transformers look for."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self._model)
        added = {token: {"content": token, "special": True, "normalized": False} for token in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "Ernie5Tokenizer",
            "ernie5_format": _FORMAT,
            "ernie5_digest": self.digest,
            "vocab_size": self.vocab_size,
            **_NAMED_TOKENS,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {str(SPECIAL_IDS[token]): entry for token, entry in added.items()},
            "chat_template": CHAT_TEMPLATE,
        }
        additional = [token for token in SPECIAL_TOKENS if token not in _NAMED_TOKENS.values()]
        _write_json(folder / CONFIG_FILE, config)
        _write_json(folder / SPECIAL_TOKENS_FILE, {**_NAMED_TOKENS, "additional_special_tokens": additional})
        _write_json(folder / ADDED_TOKENS_FILE, SPECIAL_IDS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TextTokenizer":
        """Loads what `save_pretrained` wrote. Raises UserError when a file is missing, altered or not ours."""
        folder = Path(folder)
        config = _read_config(folder / CONFIG_FILE)
        path = folder / MODEL_FILE
        try:
            tokenizer = cls(path.read_bytes())
        except OSError as error:
            raise _unreadable(path, error) from error
        except ValueError as error:
            raise UserError(f"{path} is {error}: train one with tools/tokenizer.py train text") from error
        if config["ernie5_digest"] != tokenizer.digest:
            raise UserError(f"{path} is not the one that {CONFIG_FILE} was written for: restore it or retrain")
        return tokenizer


def _engine(model: bytes) -> Callable[[str], list[int]] | None:
    """sentencepiece's encoder; None where it is not installed, as beside an exported model: `Merges` gives the same."""
    if importlib.util.find_spec("sentencepiece") is None:
        return None
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model).encode


def build_model(alphabet: Sequence[str], merges: Sequence[str]) -> bytes:
    """The `tokenizer.model` of an alphabet (symbols of code units) and merges (pieces, in the order learned)."""
    pieces = [Piece(token, 0.0, UNKNOWN if token == "<unk>" else CONTROL) for token in SPECIAL_TOKENS]
    pieces += [Piece(symbol, 0.0, USER_DEFINED) for symbol in BASE_SYMBOLS]
    pieces += [Piece(piece, -float(rank), NORMAL) for rank, piece in enumerate([*alphabet, *merges])]
    return write_model(pieces, *(SPECIAL_IDS[token] for token in ("<unk>", "<s>", "</s>", "<pad>")))


def _checked(pieces: list[Piece]) -> list[Piece]:
    """Raises ValueError unless the pieces are laid out as `build_model` does."""
    texts = [piece.text for piece in pieces]
    if texts[:NUM_FIXED] != [*SPECIAL_TOKENS, *BASE_SYMBOLS]:
        raise ValueError("a model without this project's special tokens and byte symbols")
    learned = pieces[NUM_FIXED:]
    units = {piece.text for piece in learned if len(piece.text) == 1}
    if any(piece.type != NORMAL or not set(piece.text) <= units or JOINT_BREAK in piece.text for piece in learned):
        raise ValueError("a model whose pieces are not made of its code units")
    if any(lower.score >= higher.score for higher, lower in zip(learned, learned[1:], strict=False)):
        raise ValueError("a model whose pieces are not in the order of their scores")
    return pieces


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it or save the tokenizer again") from error
    if not isinstance(config, dict) or config.get("ernie5_format") != _FORMAT or "ernie5_digest" not in config:
        raise UserError(f"{path} is not of an ernie5 text tokenizer: train one with tools/tokenizer.py train text")
    return config


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror}): give the folder of a saved tokenizer")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
