"""Multi-token prediction: one more block predicts the token after the next (arXiv:2412.19437 §2.2; report §2.1)."""

import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.layout import Layout
from ernie5.layers.linear import linear
from ernie5.layers.norm import RMSNorm
from ernie5.layers.pages import LayerPages
from ernie5.model.block import Block, BlockOutput, run_blocks


class MultiTokenPrediction(nn.Layer):
    """norm(Block(W [norm(h_i); norm(Emb(t_{i+1}))])), to be read by the shared head as a prediction of t_{i+2}.

    h is the residual stream after the last layer, before the final norm. The embedding and the head are the model's.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.hnorm = RMSNorm(hidden, eps)
        self.enorm = RMSNorm(hidden, eps)
        self.eh_proj = linear(2 * hidden, hidden, config.initializer_range)
        self.layer_id = config.num_hidden_layers  # its row in the subnet's expert mask
        self.block = Block(config, self.layer_id)
        self.norm = RMSNorm(hidden, eps)

    def forward(
        self,
        residual: paddle.Tensor,
        next_embeddings: paddle.Tensor,
        layout: Layout,
        expert_mask: paddle.Tensor,
        top_k: int,
        pages: LayerPages | None = None,
    ) -> BlockOutput:
        """residual and next_embeddings [batch, seq, hidden] -> hidden states for the shared head, same shape."""
        joined = self.joined(residual, next_embeddings)
        own = None if pages is None else [pages]
        hidden_states, loads = run_blocks([self.block], joined, layout, [expert_mask], top_k, own)
        return BlockOutput(self.norm(hidden_states), loads[0])

    def joined(self, residual: paddle.Tensor, next_embeddings: paddle.Tensor) -> paddle.Tensor:
        """W [norm(h_i); norm(Emb(t_{i+1}))], in the dtype of W where that is the wider one (an exported model)."""
        both = paddle.concat([self.hnorm(residual), self.enorm(next_embeddings)], axis=-1)
        return self.eh_proj(both.astype(self.eh_proj.weight.dtype)).astype(residual.dtype)
