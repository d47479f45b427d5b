"""The vision transformer of the understanding path: patches of any picture, at its own resolution (report §2.2.2)."""

import numpy as np
import paddle
from paddle import nn

from ernie5.config.schema import AttentionConfig, VisionEncoderConfig, ViTConfig
from ernie5.layers.attention import Attention
from ernie5.layers.layout import Layout
from ernie5.layers.mlp import GatedMLP
from ernie5.layers.norm import RMSNorm
from ernie5.layers.rope import rotation
from ernie5.ops.attention import Mask

ROPE_THETA = 10_000.0  # of rows and columns of patches, of which there are tens to hundreds
NORM_EPSILON = 1e-6


class VisionTransformer(nn.Layer):
    """pixels float32 [batch, frames, height, width, 3] -> [batch, latent frames, h, w, hidden].

    A patch is a latent cell of the vision tokenizer: `stride` pixels a side and, where the tokenizer merges frames, as
    many of them, the first frame being alone (the frames before it are copies of it). So both paths share one grid.
    Every frame is attended to by itself, with two-dimensional rotary positions and no other.
    """

    def __init__(self, config: ViTConfig, encoder: VisionEncoderConfig, initializer_range: float):
        super().__init__()
        self.stride, self.temporal_stride = encoder.stride, encoder.temporal_stride
        heads = config.num_attention_heads
        self.attention = AttentionConfig(
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=config.hidden_size // heads,
            rope_theta=ROPE_THETA,
            rope_temporal_fraction=0.0,
        )
        self.patch_embed = nn.Linear(3 * self.temporal_stride * self.stride**2, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.LayerList([ViTBlock(config, self.attention, initializer_range) for _ in layers])
        self.norm = RMSNorm(config.hidden_size, NORM_EPSILON)

    def forward(self, pixels: paddle.Tensor) -> paddle.Tensor:
        patches = self.patches(pixels).astype(self.patch_embed.weight.dtype)
        batch, frames, height, width, size = patches.shape
        hidden_states = self.patch_embed(patches.reshape([batch * frames, height * width, size]))
        layout = frame_layout(height, width, self.attention)
        for layer in self.layers:
            hidden_states = layer(hidden_states, layout)
        return self.norm(hidden_states).reshape([batch, frames, height, width, -1])

    def patches(self, pixels: paddle.Tensor) -> paddle.Tensor:
        """[batch, latent frames, h, w, temporal_stride * stride * stride * 3], in this order."""
        batch, frames, height, width, _ = pixels.shape
        depth, side = self.temporal_stride, self.stride
        if depth > 1:
            pixels = paddle.concat([pixels[:, :1]] * (depth - 1) + [pixels], axis=1)
        grid = [batch, (frames - 1) // depth + 1, depth, height // side, side, width // side, side, 3]
        patches = pixels.reshape(grid).transpose([0, 1, 3, 5, 2, 4, 6, 7])
        return patches.reshape([*patches.shape[:4], -1])


class ViTBlock(nn.Layer):
    """h += attention(norm(h)); h += mlp(norm(h)), as in the backbone."""

    def __init__(self, config: ViTConfig, attention: AttentionConfig, initializer_range: float):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, NORM_EPSILON)
        self.self_attn = Attention(config.hidden_size, attention, initializer_range)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, NORM_EPSILON)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, initializer_range)

    def forward(self, hidden_states: paddle.Tensor, layout: Layout) -> paddle.Tensor:
        attended = self.self_attn(self.input_layernorm(hidden_states), layout)
        normed, hidden_states = self.post_attention_layernorm.of_sum(attended, hidden_states)
        return hidden_states + self.mlp(normed)


def frame_layout(height: int, width: int, attention: AttentionConfig) -> Layout:
    """Every patch of a frame sees every other; it stands in its row and column."""
    rows, columns = np.indices([height, width]).reshape(2, -1)
    positions = np.stack([np.zeros_like(rows), rows, columns], -1).astype(np.float32)
    return Layout(Mask(height * width, height * width), rotation(paddle.to_tensor(positions[None]), attention))
