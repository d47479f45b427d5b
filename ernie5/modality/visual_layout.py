"""Where the tokens of a picture or a film stand and who sees them (report §2.2.2, §2.2.3). NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ernie5.modality.token_layout import TO_THE_END, TokenLayout

FRAMES_PER_TOKEN = 4  # of a film that is understood: 2 x 2 x 4 patches make a token, 2 x 2 of a picture (report §2.2.2)

Scales = Sequence[Sequence[int]]  # (height, width) of each, in latent cells


@dataclass(frozen=True, eq=False)
class VisualLayout(TokenLayout):
    """The tokens between BOI and EOI, or BOV and EOV."""

    scale_ids: np.ndarray  # int64 [n]: the scale whose place the token takes, 0: S_S; -1 of tokens that are understood


def understanding_layout(num_frames: int, height: int, width: int) -> VisualLayout:
    """Tokens of `num_frames` latent frames of height x width latent cells: groups of frames in order, rows in order."""
    groups = 1 if num_frames == 1 else -(-num_frames // FRAMES_PER_TOKEN)
    grid = np.indices([groups, height // 2, width // 2]).reshape(3, -1).T
    size = (height // 2) * (width // 2)
    n = groups * size
    return VisualLayout(
        positions=grid.astype(np.float32),
        group_start=np.arange(n) // size * size,
        hidden_from=np.full(n, TO_THE_END, np.int64),
        scale_ids=np.full(n, -1, np.int64),
    )


def generation_layout(num_frames: int, scales: Scales, window: int, masked_frames: Sequence[int] = ()) -> VisualLayout:
    """Of every frame in order: the inputs of scales 1, 2, ..., then the sum of all scales (at the size of scale 0).

    A frame is hidden from the frames more than `window` behind it, or from all behind it if it is in `masked_frames`.
    """
    sizes = [*range(1, len(scales)), 0]  # S_S stands where a 1 x 1 scale would
    per_scale = [scale_coordinates(scales[k], scales[-1]) for k in sizes]
    lengths = [len(coordinates) for coordinates in per_scale]
    frame = np.concatenate(per_scale)
    group = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    length = len(frame)
    frames = np.repeat(np.arange(num_frames), length)
    last_seen = np.where(np.isin(frames, masked_frames), frames, frames + window)
    return VisualLayout(
        positions=np.column_stack([frames, np.tile(frame, [num_frames, 1])]).astype(np.float32),
        group_start=frames * length + np.tile(group, num_frames),
        hidden_from=np.where(last_seen < num_frames - 1, (last_seen + 1) * length, TO_THE_END),
        scale_ids=np.tile(np.repeat(sizes, lengths), num_frames),
    )


def scale_coordinates(scale: Sequence[int], last: Sequence[int]) -> np.ndarray:
    """float64 [h * w, 2]: the centres of a scale's cells, in cells of the last scale, whose cell 0 lies at 0."""
    axes = [(np.arange(n) + 0.5) * whole / n - 0.5 for n, whole in zip(scale, last, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def generated_length(num_frames: int, scales: Scales) -> int:
    """Tokens between BOI and EOI."""
    return num_frames * (sum(h * w for h, w in scales[1:]) + 1)
