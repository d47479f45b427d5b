"""Text: next-token prediction over a shared embedding (report §2.1)."""

import paddle
from paddle import ParamAttr, nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.linear import linear
from ernie5.modality.unified import IGNORE_INDEX
from ernie5.ops.cross_entropy import linear_cross_entropy
from ernie5.ops.head_logits import head_logits


class TextModality(nn.Layer):
    """The token embedding and the head; one matrix [vocab, hidden] for both when tied."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        weight = ParamAttr(initializer=nn.initializer.Normal(0.0, config.initializer_range))
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, weight_attr=weight)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, config.vocab_size, config.initializer_range)

    def embed(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [batch, seq] -> [batch, seq, hidden]."""
        return self.embed_tokens(input_ids)

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[..., hidden] -> [..., vocab]."""
        return head_logits(hidden_states, *self._head())

    def loss(self, hidden_states: paddle.Tensor, labels: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        """sum of weight * negative log-likelihood of the label, in nats, a float32 scalar.

        hidden_states [batch, seq, hidden]; labels int64 [batch, seq], IGNORE_INDEX where nothing is predicted, already
        shifted (a slice of the logits instead would cost a copy of their gradient); weight float32 [batch, seq].
        """
        rows = hidden_states.reshape([-1, hidden_states.shape[-1]])
        head, hidden_first = self._head()
        return linear_cross_entropy(rows, head, labels.flatten(), weight.flatten(), IGNORE_INDEX, hidden_first)

    def _head(self) -> tuple[paddle.Tensor, bool]:
        """The head's matrix, and whether it is [hidden, vocab]."""
        return (self.embed_tokens.weight, False) if self.lm_head is None else (self.lm_head.weight, True)
