"""The attention-based patch merger: what two vision paths see of a few cells becomes one token (report §2.2.2)."""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.layers.linear import linear
from ernie5.layers.norm import RMSNorm
from ernie5.modality.visual_layout import FRAMES_PER_TOKEN

SIDE = 2  # cells of a token in height and in width
NORM_EPSILON = 1e-6


class PatchMerger(nn.Layer):
    """F_cnn [N, K, D_cnn] and F_vit [N, K, D_vit] -> [N, hidden]: a token for each group of K cells.

    The CNN's features are projected to the ViT's width, both stand side by side as 2K patches, attend to each other
    within the group, and their mean is projected to the backbone. The report writes Z = Attn(F): here with a norm
    before and a residual around it, as everywhere in this model. With one path alone (`None` for the other) a group
    has K patches.
    """

    def __init__(self, cnn_channels: int, hidden_size: int, num_heads: int, out_size: int, initializer_range: float):
        super().__init__()
        self.num_heads = num_heads
        self.cnn_proj = linear(cnn_channels, hidden_size, initializer_range) if cnn_channels else None
        self.norm = RMSNorm(hidden_size, NORM_EPSILON)
        self.qkv_proj = linear(hidden_size, 3 * hidden_size, initializer_range)
        self.o_proj = linear(hidden_size, hidden_size, initializer_range)
        self.out_proj = linear(hidden_size, out_size, initializer_range)

    def forward(self, cnn: paddle.Tensor | None, vit: paddle.Tensor | None) -> paddle.Tensor:
        paths = [self.cnn_proj(cnn)] if cnn is not None else []
        paths += [vit] if vit is not None else []
        patches = paddle.concat(paths, axis=1) if len(paths) > 1 else paths[0]
        patches = patches + self.attend(self.norm(patches))
        return self.out_proj(patches.mean(1))

    def attend(self, patches: paddle.Tensor) -> paddle.Tensor:
        """Multi-head self-attention within each group, [N, patches, D] -> the same shape."""
        groups, num, width = patches.shape
        head_dim = width // self.num_heads
        qkv = self.qkv_proj(patches).reshape([groups, num, 3, self.num_heads, head_dim]).transpose([2, 0, 3, 1, 4])
        query, key, value = qkv.unbind(0)  # [groups, heads, patches, head_dim]
        scores = paddle.matmul(query * head_dim**-0.5, key, transpose_y=True)
        attended = paddle.matmul(F.softmax(scores.astype("float32"), axis=-1).astype(value.dtype), value)
        return self.o_proj(attended.transpose([0, 2, 1, 3]).reshape([groups, num, width]))


def group_cells(features: paddle.Tensor) -> paddle.Tensor:
    """[batch, frames, h, w, d] -> [batch * tokens, K, d], tokens in the order of `understanding_layout`.

    K is 2 x 2 of a picture, and 4 frames of 2 x 2 of a film, whose last frame is repeated to fill its last group; the
    cells of a group stand in the order frame, row, column.
    """
    batch, frames, height, width, dim = features.shape
    depth = 1 if frames == 1 else FRAMES_PER_TOKEN
    missing = -frames % depth
    if missing:
        features = paddle.concat([features, *[features[:, -1:]] * missing], axis=1)
    shape: Sequence[int] = [batch, (frames + missing) // depth, depth, height // SIDE, SIDE, width // SIDE, SIDE, dim]
    groups = features.reshape(shape).transpose([0, 1, 3, 5, 2, 4, 6, 7])
    return groups.reshape([-1, depth * SIDE * SIDE, dim])
