"""What a sample of the digit world is, and the studio where its media are arranged."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ernie5.data.digits.deck import Deck
from ernie5.data.digits.render import CELL, Glyph, film_glyph, picture_glyph
from ernie5.data.digits.voices import Voices
from ernie5.data.sample import Audio, MediaRole

# Rows and columns a frame of a digit that moves there.
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
# Pixels from the first frame to the last. 6 is as far as a digit of 9 pixels can go and stay inside 16.
TRAVEL = {"slow": 3.0, "fast": 6.0}


@dataclass(frozen=True)
class Medium:
    """A picture (one frame) or a film to be drawn: the glyphs of each frame."""

    height: int
    width: int
    frames: tuple[tuple[Glyph, ...], ...]
    role: MediaRole


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of a sample: what it is scored by. Empty where it does not apply."""

    task: str
    language: str
    digits: tuple[int, ...] = ()  # shown, heard or asked for, first to last as they stand in the picture or are said
    scans: tuple[int, ...] = ()  # ids of all scans in its media
    answer: str = ""  # the text that is right, or none: a medium is generated
    layout: str = ""  # of what is seen: picture, row (left and right), column (above and below) or film
    direction: str = ""
    speed: str = ""
    spoken: str = ""  # what is heard or to be said, in words
    spoken_language: str = ""
    speaker: str = ""  # of all sounds
    voice: str = ""  # where the speaker is from: espeak or recorded
    sounds: tuple[str, ...] = ()  # all of them, in their order

    def as_record(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in ("", ())}


class Sample(NamedTuple):
    """What is given (asked, shown, said), then what is answered. A sound is named by its path in the world."""

    parts: tuple[str | Medium | Audio, ...]
    answer: str | Medium | Audio
    facts: Facts


class Studio:
    """Scans, voices, chance and style of one task in one split. `voices`: None where nothing is said."""

    def __init__(
        self,
        digits: np.ndarray,
        ids: np.ndarray,
        rng: np.random.Generator,
        vary: bool,
        num_frames: int,
        voices: Voices | None = None,
    ):
        self.rng, self.num_frames, self.voices = rng, num_frames, voices
        self.style = rng if vary else None
        self.scans = [Deck(ids[digits[ids] == digit].tolist(), rng) for digit in range(10)]

    def scan(self, digit: int) -> int:
        return self.scans[digit].deal()

    def picture(self, scan: int, role: MediaRole) -> Medium:
        glyph = picture_glyph(scan, CELL / 2, CELL / 2, self.style)
        return Medium(CELL, CELL, ((glyph,),), role)

    def scene(self, scans: tuple[int, int], layout: str, role: MediaRole) -> Medium:
        """Two digits side by side (row) or one above the other (column)."""
        middles = (CELL / 2, 3 * CELL / 2)
        if layout == "row":
            glyphs = [picture_glyph(s, CELL / 2, m, self.style) for s, m in zip(scans, middles, strict=True)]
            return Medium(CELL, 2 * CELL, (tuple(glyphs),), role)
        glyphs = [picture_glyph(s, m, CELL / 2, self.style) for s, m in zip(scans, middles, strict=True)]
        return Medium(2 * CELL, CELL, (tuple(glyphs),), role)

    def film(self, scan: int, direction: str, speed: str, role: MediaRole) -> Medium:
        """A digit that moves evenly along its direction and stays inside; it starts anywhere from where it can."""
        glyph = film_glyph(scan, 0, 0, self.style)
        half, travel = 4 * glyph.scale, TRAVEL[speed]
        low, high = half, CELL - half
        middle = np.array([self.rng.uniform(low, high) for _ in range(2)])
        step = np.array(STEPS[direction], float)
        axis = int(np.flatnonzero(step)[0])
        start = self.rng.uniform(low, high - travel)
        middle[axis] = start if step[axis] > 0 else CELL - start
        places = [middle + step * travel * k / (self.num_frames - 1) for k in range(self.num_frames)]
        return Medium(CELL, CELL, tuple((glyph.moved(row, column),) for row, column in places), role)


Samples = Iterator[Sample]
