"""What every layer needs to know of the sequence: who sees whom and where a token stands. Made once a forward pass."""

from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.schema import AttentionConfig
from ernie5.layers.rope import Rotation, rotation
from ernie5.ops.attention import Mask


class Layout(NamedTuple):
    mask: Mask
    rotation: Rotation


def make_layout(mask_rows: np.ndarray, position_ids: paddle.Tensor, config: AttentionConfig) -> Layout:
    """mask_rows int32 [batch, seq, 2 or 4] (FlashMask columns), position_ids float32 [batch, seq, 3] -> Layout."""
    seq = mask_rows.shape[1]
    return Layout(Mask(seq, seq, mask_rows), rotation(position_ids, config))
