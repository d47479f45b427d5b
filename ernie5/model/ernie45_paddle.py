"""ERNIE 4.5's published Paddle checkpoints: names under `ernie.`, matrices [in, out], some of them joined. NumPy only.

Queries, keys and values are one matrix, all heads of each behind the other; gate and up are one, gate first. From and
to the published names of transformers' classes (`ernie45_names.py`).
"""

from collections.abc import Mapping

import numpy as np

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.model.ernie45_names import Array
from ernie5.model.safetensors_file import Deferred, host_array

PREFIX = "ernie."
_QKV, _UP_GATE = "self_attn.qkv_proj.weight", "up_gate_proj.weight"
_PARTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
_AS_IT_IS = ("embed_tokens.weight", "e_score_correction_bias")  # of two dims, and not turned


def from_paddle(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """A Paddle checkpoint's tensors as views, by published names. UserError where a joined matrix does not fit."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        published = "model." + name.removeprefix(PREFIX) if name.startswith(PREFIX) else name
        if name.endswith(_QKV):
            prefix = published.removesuffix("qkv_proj.weight")
            found |= {prefix + part: piece.T for part, piece in zip(_PARTS, _heads(name, tensor, config), strict=True)}
        elif name.endswith(_UP_GATE):
            prefix, width = published.removesuffix(_UP_GATE), tensor.shape[-1] // 2
            found[prefix + "gate_proj.weight"] = tensor[..., :width].T
            found[prefix + "up_proj.weight"] = tensor[..., width:].T
        else:
            found[published] = tensor if name.endswith(_AS_IT_IS) else tensor.T
    return found


def to_paddle(tensors: Mapping[str, Array], config: ModelConfig) -> dict[str, Array]:
    """The inverse, of published names. Raises UserError for a model whose queries do not share keys."""
    _refuse_own_keys(config)
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        paddle = PREFIX + name.removeprefix("model.") if name.startswith("model.") else name
        if name.endswith("self_attn.q_proj.weight"):
            joined = [tensors[name.removesuffix(_PARTS[0]) + part] for part in _PARTS]
            found[paddle.removesuffix(_PARTS[0]) + "qkv_proj.weight"] = _joined(joined)
        elif name.endswith("gate_proj.weight"):
            joined = [tensor, tensors[name.removesuffix("gate_proj.weight") + "up_proj.weight"]]
            found[paddle.removesuffix("gate_proj.weight") + _UP_GATE] = _joined(joined)
        elif not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            found[paddle] = tensor if name.endswith(_AS_IT_IS) else tensor.T
    return found


def _heads(name: str, tensor: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """[hidden, (heads + 2 * kv_heads) * head_dim] -> its queries, keys and values."""
    _refuse_own_keys(config)
    attention = config.attention
    queries, keys = (n * attention.head_dim for n in (attention.num_attention_heads, attention.num_key_value_heads))
    shape = [config.hidden_size, queries + 2 * keys]
    if list(tensor.shape) != shape:
        raise UserError(f"{name}: is {list(tensor.shape)}, not {shape}; copy the checkpoint again")
    return np.split(tensor, [queries, queries + keys], axis=1)


def _refuse_own_keys(config: ModelConfig) -> None:
    """There heads are joined one by one, and no published model is of that kind."""
    if config.attention.num_attention_heads == config.attention.num_key_value_heads:
        raise UserError(
            "num_key_value_heads equals num_attention_heads: Paddle's layout of such models is not known here; use "
            "that of transformers"
        )


def _joined(parts: list[Array]) -> Deferred:
    """Of parts [out, in]: [in, sum of outs]."""
    shape = (parts[0].shape[1], sum(part.shape[0] for part in parts))
    return Deferred(parts[0].dtype, shape, lambda: np.concatenate([host_array(part).T for part in parts], axis=1))
