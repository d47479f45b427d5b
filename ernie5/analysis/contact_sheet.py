"""Many small pictures or films on one sheet, enlarged, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ZOOM = 4
GAP = 1  # pixels between two, before enlarging
RIGHT, WRONG = (40, 120, 60), (200, 40, 40)  # colours of the gap around a medium that was judged


def write_contact_sheet(
    path: Path, media: Sequence[np.ndarray], right: Sequence[bool], columns: int, fps: float
) -> None:
    """Media of one size, uint8 [frames, height, width, 3], in rows: PNG, or a GIF at `fps` if they are films.

    The frame around each says whether it was judged right (green) or wrong (red).
    """
    num_frames, height, width, _ = media[0].shape
    rows = -(-len(media) // columns)
    sheet = np.zeros((num_frames, rows * (height + 2 * GAP), columns * (width + 2 * GAP), 3), np.uint8)
    for i, (medium, is_right) in enumerate(zip(media, right, strict=True)):
        top, left = (i // columns) * (height + 2 * GAP), (i % columns) * (width + 2 * GAP)
        cell = sheet[:, top : top + height + 2 * GAP, left : left + width + 2 * GAP]
        cell[:] = RIGHT if is_right else WRONG
        cell[:, GAP:-GAP, GAP:-GAP] = medium
    sheet = sheet.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
    first, *others = (Image.fromarray(frame) for frame in sheet)
    if others:
        first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    else:
        first.save(path)
