"""The names of tensors in a model folder, which follow the decoders of the ecosystem, and in the model."""

# (in the model, in the folder), the first prefix that fits
_PREFIXES = (
    ("text.lm_head.", "lm_head."),
    ("text.", "model."),
    ("decoder.", "model."),
    ("mtp.", "model.mtp.0."),
    ("vision_understanding.", "model.vision_understanding."),
    ("vision_generation.", "model.vision_generation."),
    ("audio.", "model.audio."),
)


def to_folder_name(name: str) -> str:
    """`decoder.layers.0.self_attn.q_proj.weight` -> `model.layers.0.self_attn.q_proj.weight`."""
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"a parameter outside the known parts of the model: {name}")
