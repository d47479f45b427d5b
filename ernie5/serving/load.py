"""A model folder becomes what is served, and the engine behind it."""

import time
from pathlib import Path

from ernie5.config.rules import check_member
from ernie5.config.schema import MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.inference.coders import load_coders
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.model.folder import from_pretrained
from ernie5.serving.settings import Served
from ernie5.serving.template import template_of
from ernie5.tokenizers.text import TextTokenizer


def load(
    folder: Path | str,
    settings: EngineSettings,
    name: str | None = None,
    chat_template: str | None = None,
    num_layers: int = 0,
    top_k_experts: int = 0,
) -> tuple[Served, Engine]:
    """name: by which requests ask for the model; its own by default. num_layers, top_k_experts: a smaller member of
    the elastic family; 0: all.

    Raises UserError for a folder that cannot be read, and settings that do not fit its model.
    """
    template = template_of(folder, chat_template)
    model, tokenizer = from_pretrained(folder).eval(), TextTokenizer.from_pretrained(folder)
    member = MemberConfig(name="served", num_layers=num_layers, top_k=top_k_experts)
    check_member(member, model.config)
    coders = load_coders(folder, model.config)
    served = Served(
        name=name or model.config.name,
        config=model.config,
        tokenizer=tokenizer,
        draws=coders.vision is not None and coders.vision.tokenizer is not None,
        speaks=coders.audio is not None,
        clones=coders.audio is not None and coders.audio.speaker is not None,
        created=int(time.time()),
        chat_template=template,
    )
    return served, Engine(model, tokenizer, coders, settings, member_subnet(model.config, member))
