"""Prompts in, texts out."""

from collections.abc import Sequence

from ernie5.config.schema import GenerationConfig
from ernie5.inference.generate import generate_ids
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.text import TextTokenizer


def complete(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    config: GenerationConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[str]:
    """What the model writes behind each prompt, which it takes as the beginning of a document."""
    if not prompts:
        return []
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    streams = [tokenizer.stream() for _ in prompts]
    texts = ["" for _ in prompts]
    training = model.training
    model.eval()
    for next_ids in generate_ids(model, ids, config, tokenizer.eos_id, seed, subnet):
        texts = [text + stream.push(int(i)) for text, stream, i in zip(texts, streams, next_ids, strict=True)]
    if training:
        model.train()
    return [text + stream.finish() for text, stream in zip(texts, streams, strict=True)]
