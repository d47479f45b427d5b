"""Decoding one id at a time, never giving out half a character."""

from collections.abc import Sequence

REPLACEMENT = "\ufffd"  # for half a code unit, and for an id that is no token
_HIGH_SURROGATES = range(0xD8, 0xDC)  # first bytes


class StreamDecoder:
    """Turns ids into text as they come. The texts of all pushes and of `finish` join to `decode` of all ids.

    Half a code unit (a byte whose other half does not come) becomes U+FFFD. A lone surrogate is given as it is, because
    Python strings can hold it; such text needs `errors="replace"` to be written as UTF-8.
    """

    def __init__(self, data_of_id: Sequence[bytes | None], text_of_special: dict[int, str], skip_special_tokens: bool):
        self._data_of_id = data_of_id  # UTF-16BE bytes; None for a special token; empty for the joint break
        self._text_of_special = text_of_special
        self._skip_special_tokens = skip_special_tokens
        self._byte = b""  # the first half of a code unit
        self._held = b""  # a high surrogate that may be the first half of a character

    def push(self, token_id: int) -> str:
        """The text that one more id completes; empty while a character is incomplete."""
        if not 0 <= token_id < len(self._data_of_id):
            return self.finish() + REPLACEMENT
        data = self._data_of_id[token_id]
        if data is None:
            return self.finish() + ("" if self._skip_special_tokens else self._text_of_special[token_id])
        if len(data) == 0:
            return self.finish()
        if len(data) == 1:
            if not self._byte:
                self._byte = data
                return ""
            data, self._byte = self._byte + data, b""
            return self._units(data)
        return self._half_unit() + self._units(data)

    def finish(self) -> str:
        """The text that is still held back; the decoder then starts anew."""
        text = self._half_unit()
        held, self._held = self._held, b""
        return decode_units(held) + text

    def _half_unit(self) -> str:
        if not self._byte:
            return ""
        self._byte = b""
        return self._units(REPLACEMENT.encode("utf-16-be"))

    def _units(self, data: bytes) -> str:
        data = self._held + data
        self._held = data[-2:] if data[-2] in _HIGH_SURROGATES else b""
        return decode_units(data[: len(data) - len(self._held)])


def decode_units(data: bytes) -> str:
    """UTF-16BE to text; lone surrogates stay."""
    return data.decode("utf-16-be", "surrogatepass")
