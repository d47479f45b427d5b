"""A small model folder with its tokenizer, which most tests of the adapters start from."""

from pathlib import Path

import paddle
import pytest

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import save_pretrained
from ernie5.tokenizers.text import TextTokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat. 猫坐在垫子上。 " * 40, "Ein Hund, zwei Hunde 🙂 " * 40]


@pytest.fixture(scope="session")
def text_tokenizer() -> TextTokenizer:
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="session")
def core(text_tokenizer: TextTokenizer) -> Ernie5ForCausalLM:
    config = ModelConfig(
        name="tiny_test",
        vocab_size=text_tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        moe=MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1),
        tie_word_embeddings=False,
    )
    paddle.seed(1)
    model = Ernie5ForCausalLM(config)
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            buffer.set_value(paddle.uniform(buffer.shape, min=-0.1, max=0.1))
    return model


@pytest.fixture(scope="session")
def model_dir(core: Ernie5ForCausalLM, text_tokenizer: TextTokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paddlenlp")
    text_tokenizer.save_pretrained(folder / "tokenizer")
    return save_pretrained(core, folder / "model", folder / "tokenizer")
