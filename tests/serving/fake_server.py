"""A program that serves the scripted engine: `python -m tests.serving.fake_server PORT STEP_SECONDS`."""

import sys

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.errors import exit_cleanly
from ernie5.serving.app import create_app
from ernie5.serving.run import bind, run
from ernie5.serving.settings import Limits, Served, ServerSettings
from tests.serving.fake_engine import FakeEngine
from tests.vision_models import text_tokenizer, vision_config


def main() -> None:
    port, step_seconds = int(sys.argv[1]), float(sys.argv[2])
    config = ModelConfig(
        name="tiny",
        vocab_size=310,
        hidden_size=32,
        num_hidden_layers=1,
        attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        moe=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        vision=vision_config(),
    )
    listener = bind("127.0.0.1", port)
    served = Served(name="tiny", config=config, tokenizer=text_tokenizer(), draws=True, speaks=False)
    settings = ServerSettings(served=served, limits=Limits(drain_seconds=10.0))
    run(create_app(settings, FakeEngine(step_seconds)), listener)


if __name__ == "__main__":
    exit_cleanly(main)
