"""Where the tokens of a medium stand and who sees them. NumPy only."""

from dataclasses import dataclass

import numpy as np

TO_THE_END = np.iinfo(np.int32).max  # `hidden_from` of a token that everything behind it may see


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """The tokens of a medium between the marks of its beginning and end, counted from 0 at the first of them."""

    positions: np.ndarray  # float32 [n, 3]: t, h, w of Uni-RoPE, from 0
    group_start: np.ndarray  # int64 [n]: first token of the group in which all see each other
    hidden_from: np.ndarray  # int64 [n]: first token that no longer sees this one, or TO_THE_END

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def extent(self) -> int:
        """How far the text behind it is moved on."""
        return int(np.ceil(self.positions.max())) + 1


def sound_layout(num_frames: int) -> TokenLayout:
    """One token a frame of codes, as causal as text and counted like it (report §2.3)."""
    index = np.arange(num_frames)
    return TokenLayout(
        positions=np.repeat(index[:, None].astype(np.float32), 3, axis=1),
        group_start=index,
        hidden_from=np.full(num_frames, TO_THE_END, np.int64),
    )
