"""Scans become glyphs on a canvas: moved, scaled, turned, sheared, by cubic interpolation. White ink on black."""

from dataclasses import dataclass, replace

import numpy as np

CELL = 16  # pixels, side of the square that a digit of a picture or scene stands in
PICTURE_SCALE = 1.75  # pixels a scan's pixel: a digit of 14 pixels, with a margin
FILM_SCALE = 1.15  # a digit of about 9 pixels, with room to move
INK = 16  # darkest value of a scan
BATCH = 512  # glyphs drawn at once, which bounds memory


@dataclass(frozen=True, slots=True)
class Glyph:
    """One scan and where it goes: its centre in pixels (row, column) from the canvas's corner."""

    scan: int
    row: float
    column: float
    scale: float  # pixels a scan's pixel
    angle: float = 0.0  # radians, clockwise
    shear: float = 0.0  # columns a row
    gain: float = 1.0  # brightness of full ink, 1 is white

    def moved(self, rows: float, columns: float) -> "Glyph":
        return replace(self, row=self.row + rows, column=self.column + columns)


def picture_glyph(scan: int, row: float, column: float, rng: np.random.Generator | None) -> Glyph:
    """A digit in the 16 x 16 cell centred there; varied a little by `rng`, plain without."""
    if rng is None:
        return Glyph(scan, row, column, PICTURE_SCALE)
    shift = rng.uniform(-1, 1, 2)
    return Glyph(
        scan,
        row + shift[0],
        column + shift[1],
        scale=PICTURE_SCALE * rng.uniform(0.92, 1.06),
        angle=rng.uniform(-0.14, 0.14),
        shear=rng.uniform(-0.12, 0.12),
        gain=rng.uniform(0.8, 1.0),
    )


def film_glyph(scan: int, row: float, column: float, rng: np.random.Generator | None) -> Glyph:
    """The smaller digit of a film; varied less, so that it stays inside its box."""
    if rng is None:
        return Glyph(scan, row, column, FILM_SCALE)
    scale = FILM_SCALE * rng.uniform(0.96, 1.04)
    return Glyph(scan, row, column, scale, shear=rng.uniform(-0.1, 0.1), gain=rng.uniform(0.8, 1.0))


def draw_glyphs(pixels: np.ndarray, glyphs: list[Glyph], height: int, width: int) -> np.ndarray:
    """One canvas a glyph. `pixels` uint8 [scans, 8, 8] -> uint8 [glyphs, height, width]."""
    batches = (glyphs[start : start + BATCH] for start in range(0, len(glyphs), BATCH))
    drawn = [_draw_batch(pixels, batch, height, width) for batch in batches]
    return np.concatenate(drawn) if drawn else np.zeros((0, height, width), np.uint8)


def _draw_batch(pixels: np.ndarray, glyphs: list[Glyph], height: int, width: int) -> np.ndarray:
    numbers = np.array([(g.row, g.column, g.scale, g.angle, g.shear, g.gain) for g in glyphs], np.float32)
    row, column, scale, angle, shear, gain = (numbers[:, i, None] for i in range(6))  # each [glyphs, 1]
    at_row, at_column = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    down = (at_row.reshape(1, -1).astype(np.float32) - row) / scale  # [glyphs, places]
    right = (at_column.reshape(1, -1).astype(np.float32) - column) / scale
    scan_rows = np.cos(angle) * down - np.sin(angle) * right
    scan_columns = np.sin(angle) * down + np.cos(angle) * right - shear * scan_rows
    size = pixels.shape[1]
    ink = pixels[[g.scan for g in glyphs]].astype(np.float32) / INK  # [glyphs, 8, 8]
    by_row = cubic_weights(scan_rows + size / 2, size) @ ink  # [glyphs, places, 8]
    value = np.einsum("npc,npc->np", by_row, cubic_weights(scan_columns + size / 2, size))
    value = np.rint(np.clip(value, 0, 1) * gain * 255).astype(np.uint8)
    return value.reshape(-1, height, width)


def cubic_weights(position: np.ndarray, size: int) -> np.ndarray:
    """Keys' cubic convolution (a = -1/2): float32 [...] in pixels -> weight of each of `size` pixels, [..., size]."""
    distance = np.abs(position[..., None] - (np.arange(size, dtype=np.float32) + 0.5))
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, np.float32(0)))
