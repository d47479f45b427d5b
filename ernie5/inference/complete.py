"""Prompts in, texts out."""

from collections.abc import Sequence

from ernie5.config.schema import GenerationConfig
from ernie5.data.sample import Text
from ernie5.inference.prompt import answer
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
    return answer(model, tokenizer, [[Text(prompt)] for prompt in prompts], config, seed, subnet)
