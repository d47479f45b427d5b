"""Where training text is cut before merges are learned, so that no piece crosses the cuts.

Spaced scripts are cut at words (a space begins the word after it), digits stand alone, and runs of white space and of
punctuation are pieces of their own. Scripts written without spaces are cut at the word boundaries of a segmenter: this
is how phrases that a word segmenter would take apart stay out of the vocabulary (report §3.1).
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby

from ernie5.errors import UserError

Segmenter = Callable[[str], list[str]]  # a run of unspaced script -> its words, which join to the run again

# Code point ranges of scripts that do not put spaces between words, and the longest piece, in code points, that may be
# learned in them. A segmenter may allow less. Han and kana: four-character words are common, longer ones compounds.
# The others (Thai, Lao, Tibetan, Burmese, Khmer, Tai, Cham) spell a syllable with several code points.
_HAN_RANGES = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
_HAN_RANGES += ((0xF900, 0xFAFF), (0x20000, 0x323AF))
_HIRAGANA_RANGES = ((0x3041, 0x309F),)
_KATAKANA_RANGES = ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_ABUGIDA_RANGES = ((0x0E01, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF))
_ABUGIDA_RANGES += (
    (0x1A20, 0x1AAF),
    (0xA9E0, 0xA9FF),
    (0xAA00, 0xAADF),
)
MAX_HAN_KANA = 4
MAX_ABUGIDA = 8
_JOINERS = (0x200C, 0x200D)  # ZWNJ and ZWJ are written inside words
_TSHEG = 0x0F0B  # stands between the syllables of a Tibetan word


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern:
    """Alternatives, first match wins: Han and kana; other unspaced; word; digit; punctuation; white space."""
    unspaced_codes = _codes(*_HAN_RANGES, *_HIRAGANA_RANGES, *_KATAKANA_RANGES, *_ABUGIDA_RANGES)
    letters, digits = set(_JOINERS), set()
    for code in range(0x323B0):  # the last assigned block of letters
        category = unicodedata.category(chr(code))
        if category[0] in "LM" or code == _TSHEG:
            letters.add(code)
        elif category[0] == "N":
            digits.add(code)
    east = _char_class((letters | digits) & _codes(*_HAN_RANGES, *_HIRAGANA_RANGES, *_KATAKANA_RANGES))
    south = _char_class(letters & _codes(*_ABUGIDA_RANGES))
    word, digit = _char_class(letters - unspaced_codes), _char_class(digits - _codes(*_HAN_RANGES))
    known = f"{east}{south}{word}{digit}"
    return re.compile(
        rf"(?P<unspaced>[{east}]+|[{south}]+)| ?[{word}]+|[{digit}]| ?[^\s{known}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def presplit(text: str, segmenter: Segmenter | None = None) -> Iterator[str]:
    """The parts of a text, in order; they join to the text. A segmenter cuts the runs of unspaced script.

    Without one, Japanese is cut where the script changes and the rest of unspaced text only by the length limit of
    `is_too_long`. Raises UserError when the segmenter's words do not join to what it was given.
    """
    segment = segmenter or split_at_script_changes
    for match in _pattern().finditer(text):
        part = match.group()
        if match.lastgroup != "unspaced":
            yield part
            continue
        words = segment(part)
        if "".join(words) != part:
            raise UserError(
                f"the segmenter made {words[:8]!r} of {part[:40]!r}: give one whose words join to what it was given"
            )
        yield from words


def split_at_script_changes(run: str) -> list[str]:
    """A run of unspaced script, cut between Han, hiragana and katakana."""
    return ["".join(group) for _, group in groupby(run, key=_script)]


def is_too_long(piece: str) -> bool:
    """Whether a piece of unspaced script is longer than the limit of its script."""
    limit = sys.maxsize
    for character in piece:
        script = _script(character)
        if script != "":
            limit = min(limit, MAX_ABUGIDA if script == "abugida" else MAX_HAN_KANA)
    return len(piece) > limit


def jieba_segmenter() -> Segmenter:
    """Cuts runs of Han with jieba (`pip install jieba`); other scripts as `split_at_script_changes` does.

    Raises UserError when jieba is not installed.
    """
    try:
        import jieba
    except ImportError as error:
        raise UserError("jieba is not installed: pip install jieba, or train with --segmenter none") from error
    jieba.setLogLevel("WARNING")

    def segment(run: str) -> list[str]:
        return jieba.lcut(run, HMM=False) if _script(run[0]) == "han" else [run]

    return lambda run: [word for part in split_at_script_changes(run) for word in segment(part)]


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    code = ord(character)
    for name, ranges in (("han", _HAN_RANGES), ("hiragana", _HIRAGANA_RANGES), ("katakana", _KATAKANA_RANGES)):
        if any(first <= code <= last for first, last in ranges):
            return name
    return "abugida" if any(first <= code <= last for first, last in _ABUGIDA_RANGES) else ""


def _codes(*ranges: tuple[int, int]) -> set[int]:
    return {code for first, last in ranges for code in range(first, last + 1)}


def _char_class(codes: set[int]) -> str:
    """The inside of a regular expression's [...] for a set of code points."""
    parts = []
    for _, run in groupby(enumerate(sorted(codes)), key=lambda place: place[1] - place[0]):
        codes_of_run = [code for _, code in run]
        parts.append(f"{re.escape(chr(codes_of_run[0]))}-{re.escape(chr(codes_of_run[-1]))}")
    return "".join(parts)
