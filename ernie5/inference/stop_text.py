"""Texts that end an answer: nothing of them is told, also where they come in pieces."""

from collections.abc import Sequence


class StopText:
    """Passes text on, and holds back what may be the beginning of a stop text."""

    def __init__(self, texts: Sequence[str]):
        self._texts = [text for text in texts if text]
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be told now. Behind a stop text that is nothing."""
        if self.found:
            return ""
        if not self._texts:
            return text
        text = self._held + text
        places = [place for place in (text.find(one) for one in self._texts) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        longest = max(map(len, self._texts)) - 1
        begins = range(max(0, len(text) - longest), len(text))
        cut = next((i for i in begins if any(one.startswith(text[i:]) for one in self._texts)), len(text))
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """What is still held back."""
        held, self._held = self._held, ""
        return held
