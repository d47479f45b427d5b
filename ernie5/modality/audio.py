"""Next-codec prediction: a frame of audio is a token, its codes are predicted layer after layer (report §2.3)."""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn

from ernie5.config.schema import AudioConfig
from ernie5.layers.linear import linear
from ernie5.layers.norm import RMSNorm

# hidden states [batch, seq, hidden] behind a layer -> those that the next one takes
Tap = Callable[[paddle.Tensor], paddle.Tensor]
# (logits [n, codebook_size + 1] of n frames, level) -> the codes int64 [n] that count as predicted
Choose = Callable[[paddle.Tensor, int], paddle.Tensor]


class AudioModality(nn.Layer):
    """Tables and heads of the levels of codes; each level has its own (report §2.3, Figure 3).

    The code `codebook_size` is the end of audio: every level predicts it behind the last frame.
    """

    def __init__(self, config: AudioConfig, hidden_size: int, initializer_range: float, epsilon: float):
        super().__init__()
        self.num_levels, self.end_code = config.num_codebooks, config.codebook_size
        weight = ParamAttr(initializer=nn.initializer.Normal(0.0, initializer_range))
        levels, size = range(config.num_codebooks), config.codebook_size + 1
        self.code_embeddings = nn.LayerList([nn.Embedding(size, hidden_size, weight_attr=weight) for _ in levels])
        self.norms = nn.LayerList([RMSNorm(hidden_size, epsilon) for _ in levels])
        self.heads = nn.LayerList([linear(hidden_size, size, initializer_range) for _ in levels])
        self.voice = linear(config.speaker_dim, hidden_size, initializer_range) if config.speaker_dim else None

    def embed(self, codes: paddle.Tensor) -> paddle.Tensor:
        """codes int64 [n, levels], below 0 where there is none -> [n, hidden]: e_i = sum_q E_q[a_iq]."""
        there = (codes >= 0).astype(self.code_embeddings[0].weight.dtype)
        tables = enumerate(self.code_embeddings)
        return sum(table(codes[:, q].clip(min=0)) * there[:, q : q + 1] for q, table in tables)

    def embed_voices(self, vectors: paddle.Tensor) -> paddle.Tensor:
        """The speaker encoder's vectors float32 [n, speaker_dim] -> [n, hidden], each in the place of a token."""
        return self.voice(vectors.astype(self.voice.weight.dtype))

    def taps(self, num_layers: int, places: paddle.Tensor, choose: Choose) -> dict[int, Tap]:
        """By layer id, what reads a level behind each of the top layers of `num_layers`, the first level lowest.

        `places` int64 [n]: in the flattened batch, the positions that predict a frame. There, what was chosen is added
        to the hidden state, E_q[a_q], before the next layer refines it for the next level.
        """
        first = num_layers - self.num_levels
        return {first + level: self._tap(level, places, choose) for level in range(self.num_levels)}

    def _tap(self, level: int, places: paddle.Tensor, choose: Choose) -> Tap:
        def tap(hidden_states: paddle.Tensor) -> paddle.Tensor:
            rows = hidden_states.reshape([-1, hidden_states.shape[-1]])
            predicting = paddle.gather(rows, places)
            chosen = choose(self.heads[level](self.norms[level](predicting)), level)
            if level + 1 == self.num_levels:
                return hidden_states
            added = self.code_embeddings[level](chosen)
            return paddle.scatter_nd_add(rows, places.unsqueeze(1), added).reshape(hidden_states.shape)

        return tap


class TeacherForcing:
    """The choice of training: the true codes, and the loss of each level on the way.

    targets int64 [n, levels], `end_code` behind the last frame; weight float32 [n].
    """

    def __init__(self, targets: paddle.Tensor, weight: paddle.Tensor):
        self.targets, self.weight = targets, weight
        self._losses: list[paddle.Tensor] = []

    def __call__(self, logits: paddle.Tensor, level: int) -> paddle.Tensor:
        target = self.targets[:, level]
        losses = F.cross_entropy(logits.astype("float32"), target, reduction="none").squeeze(-1)
        self._losses.append((losses * self.weight).sum())
        return target

    @property
    def loss(self) -> paddle.Tensor:
        """sum of weight * mean over levels of a frame's cross-entropy, in nats a code, a float32 scalar."""
        return sum(self._losses) / len(self._losses)
