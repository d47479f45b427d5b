"""Next-frame-and-scale prediction: visual tokens as groups of bits, a scale at a time (report §2.2.3)."""

import numpy as np
import paddle
from paddle import ParamAttr, nn

from ernie5.config.schema import VisionConfig
from ernie5.layers.linear import linear
from ernie5.ops.bitwise_cross_entropy import bitwise_cross_entropy


class VisionGeneration(nn.Layer):
    """The embedding of accumulated scales and one binary classifier a bit (arXiv:2412.04431), sized for the most bits.

    A tokenizer of fewer bits uses the first ones of both. Scales have a learned embedding each, because positions are
    centre-aligned: they say where a cell is, not how large.
    """

    def __init__(self, config: VisionConfig, hidden_size: int, initializer_range: float):
        super().__init__()
        self.max_bits = config.max_bits
        num_scales = max(len(resolution.scales) for resolution in config.resolutions)  # scale 0 is the sum of all
        weight = ParamAttr(initializer=nn.initializer.Normal(0.0, initializer_range))
        self.bit_embedding = linear(self.max_bits, hidden_size, initializer_range)
        self.scale_embedding = nn.Embedding(num_scales, hidden_size, weight_attr=weight)
        self.bit_head = linear(hidden_size, self.max_bits, initializer_range, bias=True)

    def embed(self, inputs: paddle.Tensor, scale_ids: paddle.Tensor | np.ndarray) -> paddle.Tensor:
        """inputs float32 [..., bits] in units of a bit, scale_ids int64 [...] (see `VisualLayout`) -> [..., hidden]."""
        weight = self.bit_embedding.weight[: inputs.shape[-1]]
        embedded = paddle.matmul(inputs, weight.astype(inputs.dtype))
        return embedded.astype(weight.dtype) + self.scale_embedding(paddle.to_tensor(scale_ids))

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[..., hidden] -> log-odds of 1 of each bit, [..., max_bits]."""
        return self.bit_head(hidden_states)

    def loss(self, hidden_states: paddle.Tensor, targets: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        """sum of weight * mean cross-entropy of a token's bits, in nats a bit, a float32 scalar.

        hidden_states [n, hidden] of the positions that predict, targets float32 [n, bits], weight float32 [n].
        """
        return bitwise_cross_entropy(self.logits(hidden_states), targets, weight)
