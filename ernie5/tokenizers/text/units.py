"""UTF-16 code units as characters: the strings that sentencepiece sees (report §3.1).

sentencepiece works on characters, our byte-pair encoding on UTF-16BE. So one character, a *symbol*, stands for one
code unit. Most units of the basic plane stand for themselves; surrogates and what sentencepiece treats in its own way
move to a private plane, one to one. Below the units lie 257 *base symbols* that every vocabulary has: the 256 byte
values, and JOINT_BREAK. A unit that the vocabulary did not learn is spelled as its two bytes, high byte first, so
nothing is ever unknown; and since bytes never merge, no learned piece begins or ends inside a unit.
"""

import re

SPACE = "\u2581"  # the symbol of U+0020, by sentencepiece's own convention
UNIT_PLANE = 0xF0000  # a displaced unit u is chr(UNIT_PLANE + u)
BYTE_PLANE = 0x100000  # the byte b is chr(BYTE_PLANE + b)

# Stands for no bytes. UTF-16 cannot tell the character U+1F600 from the two code points U+D83D U+DE00, but Python
# strings can hold either; the explicit pair has this symbol between its halves.
JOINT_BREAK = chr(BYTE_PLANE + 256)
BASE_SYMBOLS = tuple(chr(BYTE_PLANE + value) for value in range(256)) + (JOINT_BREAK,)

# Controls (newline and tab end sentences and fields in training), the line separators, sentencepiece's own signs for
# space and unknown, surrogates, and the replacement and non-characters at the end of the plane.
_DISPLACED = {
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x2028, 0x2029, 0x2047, 0x2581, 0x2585),
    *range(0xD800, 0xE000),
    *(0xFFFD, 0xFFFE, 0xFFFF),
}
_EXPLICIT_PAIR = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_SURROGATE = re.compile("[\ud800-\udfff]")


def symbol_of_unit(unit: int) -> str:
    """The symbol of a code unit (0 <= unit < 65536)."""
    if unit == 0x20:
        return SPACE
    return chr(UNIT_PLANE + unit) if unit in _DISPLACED else chr(unit)


def unit_of_symbol(symbol: str) -> int:
    """The code unit of a symbol; the inverse of `symbol_of_unit`."""
    if symbol == SPACE:
        return 0x20
    code = ord(symbol)
    return code - UNIT_PLANE if code >= UNIT_PLANE else code


def bytes_of_piece(piece: str) -> bytes:
    """The UTF-16BE bytes of a learned piece: two for each of its symbols."""
    return b"".join(unit_of_symbol(symbol).to_bytes(2, "big") for symbol in piece)


def units_of_character(character: str) -> list[int]:
    """The one or two code units of a Python character; a lone surrogate is one."""
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


class UnitSpeller(dict):
    """Spells text in symbols, for `str.translate`: the units in `alphabet` as themselves, all others as bytes.

    Without an alphabet every unit is spelled as itself.
    """

    def __init__(self, alphabet: frozenset[str] | None = None):
        super().__init__()
        self._alphabet = alphabet

    def __missing__(self, code: int) -> str:
        spelled = "".join(self._spell(unit) for unit in units_of_character(chr(code)))
        if code < 0x20000:  # the planes of nearly all text; a bound on what hostile input can make us remember
            self[code] = spelled
        return spelled

    def _spell(self, unit: int) -> str:
        symbol = symbol_of_unit(unit)
        if self._alphabet is None or symbol in self._alphabet:
            return symbol
        return BASE_SYMBOLS[unit >> 8] + BASE_SYMBOLS[unit & 0xFF]

    def spell(self, text: str) -> str:
        """The symbols of any Python string."""
        if _SURROGATE.search(text) is None:
            return text.translate(self)
        return JOINT_BREAK.join(part.translate(self) for part in _EXPLICIT_PAIR.split(text))
