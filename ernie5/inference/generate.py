"""The text loop: a prompt is read at once, then one token a step over the layers' caches."""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from ernie5.config.schema import GenerationConfig
from ernie5.inference.sampling import sample
from ernie5.layers.attention import LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.rope import rotation
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.ops.attention import causal_tiles, flashmask_tiles


def generate_ids(
    model: Ernie5ForCausalLM,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_id: int | None,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> Iterator[np.ndarray]:
    """Yields int64 [batch]: the next id of every prompt, until all have ended or max_new_tokens are out.

    Prompts (each at least one id, such as the start token) may differ in length. Behind its own end a sequence goes on
    yielding eos_id. The subnet is any member of the elastic family; the full model by default.
    """
    rng = np.random.default_rng(seed)
    decoding = _Decoding(model, prompts, subnet or full_subnet(model.config))
    ended = np.zeros(len(prompts), bool)
    next_ids = sample(decoding.prefill(), config, rng)
    for step in range(config.max_new_tokens):
        next_ids = np.where(ended, eos_id, next_ids) if ended.any() else next_ids
        yield next_ids
        ended |= next_ids == eos_id
        if ended.all() or step + 1 == config.max_new_tokens:
            return
        next_ids = sample(decoding.step(next_ids), config, rng)


class _Decoding:
    """The state of one batch: shorter prompts are padded at the left, and no token sees a pad but the pad itself."""

    def __init__(self, model: Ernie5ForCausalLM, prompts: Sequence[Sequence[int]], subnet: Subnet):
        self.model, self.subnet = model, subnet
        self.caches = [LayerCache() for _ in range(model.config.num_hidden_layers)]
        longest = max(map(len, prompts))
        self.pads = np.array([longest - len(prompt) for prompt in prompts])
        self.input_ids = np.zeros([len(prompts), longest], np.int64)
        for row, prompt, pad in zip(self.input_ids, prompts, self.pads, strict=True):
            row[pad:] = prompt
        self.length = longest  # keys in the caches once `input_ids` are read

    def prefill(self) -> np.ndarray:
        """Reads the prompts; logits float32 [batch, vocab] of what follows."""
        keys = np.arange(self.length)
        hidden_until = np.where(keys < self.pads[:, None], keys + 1, self.length)
        mask_rows = np.stack([hidden_until, np.broadcast_to(keys, hidden_until.shape)], -1).astype(np.int32)
        return self._run(self.input_ids, keys[None] - self.pads[:, None], flashmask_tiles(mask_rows))

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Reads one more id of every sequence, int64 [batch]; logits as above."""
        self.length += 1
        tiles = causal_tiles(1, self.length)
        if self.pads.any():
            hidden = np.arange(self.length) < self.pads[:, None]
            mask_rows = np.stack([np.where(hidden, 0, 1), np.zeros_like(hidden, int)], -1).astype(np.int32)
            tiles = flashmask_tiles(mask_rows, num_queries=1)
        return self._run(ids[:, None], self.length - 1 - self.pads[:, None], tiles)

    @paddle.no_grad()
    def _run(self, input_ids: np.ndarray, positions: np.ndarray, tiles) -> np.ndarray:
        position_ids = paddle.to_tensor(np.repeat(positions.clip(min=0)[..., None], 3, -1).astype(np.float32))
        layout = Layout(tiles, rotation(position_ids, self.model.config.attention))
        hidden = self.model.hidden_states(paddle.to_tensor(input_ids), layout, self.subnet, self.caches)
        return self.model.logits(hidden[:, -1]).astype("float32").numpy()
