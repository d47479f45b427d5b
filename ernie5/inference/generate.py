"""The text loop: a prompt is read at once, then one token a step over the layers' caches."""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from ernie5.config.schema import GenerationConfig
from ernie5.data.sequence import EncodedSample
from ernie5.inference.decoding import Decoding
from ernie5.inference.sampling import sample
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet


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
    decoding = Decoding(model, subnet)
    hidden = decoding.read_prompts([_text_sample(prompt) for prompt in prompts])
    yield from continue_ids(decoding, hidden, config, eos_id, np.random.default_rng(seed))


def continue_ids(
    decoding: Decoding, hidden: paddle.Tensor, config: GenerationConfig, eos_id: int | None, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """As `generate_ids`, behind what has been read; `hidden` [batch, hidden] is of the last tokens."""
    ended = np.zeros(decoding.num_rows, bool)
    next_ids = next_words(decoding, hidden, config, rng)
    for step in range(config.max_new_tokens):
        next_ids = np.where(ended, eos_id, next_ids) if ended.any() else next_ids
        yield next_ids
        ended |= next_ids == eos_id
        if ended.all() or step + 1 == config.max_new_tokens:
            return
        next_ids = next_words(decoding, decoding.read_words(next_ids), config, rng)


def next_words(
    decoding: Decoding, hidden: paddle.Tensor, config: GenerationConfig, rng: np.random.Generator
) -> np.ndarray:
    """Draws int64 [batch] from what [batch, hidden] predicts."""
    with paddle.no_grad():
        logits = decoding.model.logits(hidden)
    return sample(logits.astype("float32").numpy(), config, rng)


def _text_sample(ids: Sequence[int]) -> EncodedSample:
    return EncodedSample(ids=np.array(ids, np.int64), loss=np.zeros(len(ids), bool), num_bytes=0, origin="prompt")
