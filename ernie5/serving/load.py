"""A model folder, or the folder of an exported model, becomes what is served, and the engine behind it."""

import time
from pathlib import Path

from ernie5.config.rules import check_member
from ernie5.config.schema import MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.errors import UserError
from ernie5.inference.coders import load_coders
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.inference.predictor.exported import ExportedModel
from ernie5.inference.predictor.folder import MANIFEST
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
    is_exported = (Path(folder) / MANIFEST).is_file()
    if is_exported and (num_layers or top_k_experts):
        raise UserError(f"{folder}: is exported, with its layers and its top-k: export the member that is wanted")
    model = ExportedModel(folder) if is_exported else from_pretrained(folder).eval()
    tokenizer = TextTokenizer.from_pretrained(folder)
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
