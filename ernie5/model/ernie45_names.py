"""The open ERNIE 4.5 text models (`Ernie4_5_MoeForCausalLM`) in this backbone: settings, names and layouts of tensors.

Their linear weights are [out, in], ours [in, out]. Their rotary pairs are neighbours (dims 2j and 2j + 1), ours stand
half a head apart (j and j + head_dim / 2), so the query and key dims of every head change places. NumPy only.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.errors import UserError

Move = Callable[[np.ndarray, ModelConfig], np.ndarray]
MODEL_TYPE = "ernie4_5_moe"
DEFAULT_THETA = 500_000.0  # of a config.json without one
_NEEDED = (
    ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    + ("moe_num_experts", "moe_k", "moe_intermediate_size", "moe_num_shared_experts", "moe_layer_start_index")
)  # fmt: skip


class _Rule(NamedTuple):
    """One kind of tensor: its names in both models, `*` standing for a layer's number, and the moves between them."""

    theirs: str
    ours: str
    to_ours: Move
    to_theirs: Move


def _keep(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    return tensor


def _turn(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    return np.swapaxes(tensor, -1, -2)  # also of stacked experts: [experts, out, in] <-> [experts, in, out]


def _halves(tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
    """[heads * head_dim, hidden] with neighbouring pairs -> [hidden, heads * head_dim] with pairs half a head apart."""
    pairs = tensor.reshape([-1, config.attention.head_dim // 2, 2, config.hidden_size])
    return pairs.swapaxes(1, 2).reshape(tensor.shape).T


def _neighbours(tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The inverse of `_halves`."""
    rows = tensor.T
    pairs = rows.reshape([-1, 2, config.attention.head_dim // 2, config.hidden_size])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _without_group(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    return tensor.reshape([-1])  # [1, experts] there: one group of experts


def _with_group(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    return tensor.reshape([1, -1])


_THEIR_LAYER, _OUR_LAYER = "model.layers.*.", "decoder.layers.*."
_SAME_NAME: dict[str, tuple[Move, Move]] = {
    "input_layernorm.weight": (_keep, _keep),
    "post_attention_layernorm.weight": (_keep, _keep),
    "self_attn.q_proj.weight": (_halves, _neighbours),
    "self_attn.k_proj.weight": (_halves, _neighbours),
    "self_attn.v_proj.weight": (_turn, _turn),
    "self_attn.o_proj.weight": (_turn, _turn),
    "mlp.gate_proj.weight": (_turn, _turn),
    "mlp.up_proj.weight": (_turn, _turn),
    "mlp.down_proj.weight": (_turn, _turn),
    "mlp.shared_experts.gate_proj.weight": (_turn, _turn),
    "mlp.shared_experts.up_proj.weight": (_turn, _turn),
    "mlp.shared_experts.down_proj.weight": (_turn, _turn),
    "mlp.gate.weight": (_turn, _turn),
}
_EXPERT_BIAS = "mlp.gate.moe_statics.e_score_correction_bias"
_RULES = [
    _Rule("model.embed_tokens.weight", "text.embed_tokens.weight", _keep, _keep),
    _Rule("model.norm.weight", "decoder.norm.weight", _keep, _keep),
    _Rule("lm_head.weight", "text.lm_head.weight", _turn, _turn),
    *(_Rule(_THEIR_LAYER + name, _OUR_LAYER + name, *moves) for name, moves in _SAME_NAME.items()),
    _Rule(_THEIR_LAYER + _EXPERT_BIAS, _OUR_LAYER + "mlp.gate.expert_bias", _without_group, _with_group),
    _Rule(_THEIR_LAYER + "mlp.experts.gate_up_proj", _OUR_LAYER + "mlp.experts.gate_up_proj", _turn, _turn),
    _Rule(_THEIR_LAYER + "mlp.experts.down_proj", _OUR_LAYER + "mlp.experts.down_proj", _turn, _turn),
]
_FROM_THEIRS = {rule.theirs: rule for rule in _RULES}
_FROM_OURS = {rule.ours: rule for rule in _RULES}

# As the published checkpoints have them: every expert by itself, the bias a level higher.
_SINGLE_EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts\.)(\d+)\.(gate|up|down)_proj\.weight")
_PUBLISHED_BIAS = re.compile(r"(model\.layers\.\d+\.)mlp\.moe_statics\.e_score_correction_bias")
_PREDICTION_BLOCK = "model.mtp_"  # left out, as `Ernie4_5_MoeForCausalLM` itself does


def from_ernie45(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Their tensors by name -> our state dict. Takes the names of the class's state dict and those of its checkpoints.

    The multi-token prediction block of some checkpoints and a copy of the tied head are left out. Raises UserError for
    a tensor that no `Ernie4_5_MoeForCausalLM` has, or an expert that is missing.
    """
    tensors = _as_state_dict(tensors)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return {
        rule.ours.replace("*", layer): rule.to_ours(tensors[name], config)
        for name in tensors
        for rule, layer in [_rule(name, _FROM_THEIRS)]
    }


def to_ernie45(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_ernie45`: our state dict, or gradients by its names -> the class's state dict.

    Raises UserError for what `Ernie4_5_MoeForCausalLM` does not have, such as a prediction block.
    """
    return {
        rule.theirs.replace("*", layer): rule.to_theirs(tensors[name], config)
        for name in tensors
        for rule, layer in [_rule(name, _FROM_OURS)]
    }


def config_from_ernie45(values: Mapping[str, Any], name: str) -> ModelConfig:
    """Their `config.json` -> our settings. Raises UserError for a setting that this backbone does not express."""
    _refuse_other_shapes(values)
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    rope = values.get("rope_parameters") or values  # `rope_theta` stood on the top level before transformers 5
    return ModelConfig(
        name=name,
        vocab_size=values["vocab_size"],
        hidden_size=hidden,
        num_hidden_layers=values["num_hidden_layers"],
        intermediate_size=values["intermediate_size"],
        num_nextn_predict_layers=0,
        rms_norm_eps=values["rms_norm_eps"],
        initializer_range=values.get("initializer_range", 0.02),
        tie_word_embeddings=values.get("tie_word_embeddings", True),
        attention=AttentionConfig(
            num_attention_heads=heads,
            num_key_value_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or hidden // heads,
            rope_theta=float(rope.get("rope_theta", DEFAULT_THETA)),
        ),
        moe=MoEConfig(
            num_experts=values["moe_num_experts"],
            num_experts_per_tok=values["moe_k"],
            moe_intermediate_size=values["moe_intermediate_size"],
            num_shared_experts=values["moe_num_shared_experts"],
            num_dense_layers=values["moe_layer_start_index"],
        ),
    )


def _refuse_other_shapes(values: Mapping[str, Any]) -> None:
    if values.get("model_type") == MODEL_TYPE and (missing := [key for key in _NEEDED if key not in values]):
        raise UserError(f"config.json: {', '.join(missing)} is missing; copy the checkpoint again")
    layers = values.get("num_hidden_layers")
    rope = values.get("rope_parameters") or {}
    expected = {
        "model_type": (values.get("model_type"), (MODEL_TYPE,)),
        "hidden_act": (values.get("hidden_act", "silu"), ("silu",)),
        "use_bias": (bool(values.get("use_bias")), (False,)),
        "rope_type": (rope.get("rope_type", "default"), ("default",)),
        "moe_layer_interval": (values.get("moe_layer_interval", 1), (1,)),
        "moe_layer_end_index": (values.get("moe_layer_end_index", -1), (-1, layers and layers - 1)),
    }
    for key, (value, known) in expected.items():
        if value not in known:
            raise UserError(f"config.json: {key} is {value!r}, but only {known[0]!r} fits this backbone")


def _as_state_dict(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Published names -> those of the class: experts stacked, gate before up."""
    stacked: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, tensor in tensors.items():
        if single := _SINGLE_EXPERT.fullmatch(name):
            experts.setdefault(single[1], {}).setdefault(int(single[2]), {})[single[3]] = tensor
        elif bias := _PUBLISHED_BIAS.fullmatch(name):
            stacked[bias[1] + _EXPERT_BIAS] = tensor
        elif not name.startswith(_PREDICTION_BLOCK):
            stacked[name] = tensor
    for prefix, parts in experts.items():
        for expert in range(max(parts) + 1):
            if missing := {"gate", "up", "down"} - parts.get(expert, {}).keys():
                raise UserError(f"{prefix}{expert}: has no {min(missing)}_proj; copy the checkpoint again")
        ordered = [parts[expert] for expert in range(len(parts))]
        stacked[prefix + "gate_up_proj"] = np.stack([np.concatenate([e["gate"], e["up"]]) for e in ordered])
        stacked[prefix + "down_proj"] = np.stack([e["down"] for e in ordered])
    return stacked


def _rule(name: str, rules: Mapping[str, _Rule]) -> tuple[_Rule, str]:
    """The rule of a tensor and the number of its layer, as text."""
    number = re.search(r"\.layers\.(\d+)\.", name)
    pattern = name.replace(f".layers.{number[1]}.", ".layers.*.", 1) if number else name
    if pattern not in rules:
        raise UserError(f"{name}: no tensor of an ERNIE 4.5 text model without biases; convert only such models")
    return rules[pattern], number[1] if number else ""
