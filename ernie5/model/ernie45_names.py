"""The tensors of the open ERNIE 4.5 text models in this backbone: their names and layouts. NumPy only.

Linear weights of transformers' classes are [out, in], ours [in, out]. Their rotary pairs are neighbours (dims 2j and
2j + 1), ours stand half a head apart (j and j + head_dim / 2), so the query and key dims of every head change places.
What cannot be a view of the arrays that are given is `Deferred`: a checkpoint is never in memory as a whole.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.model.safetensors_file import Deferred

Array = np.ndarray | Deferred
Move = Callable[[np.ndarray, ModelConfig], Array]


class _Rule(NamedTuple):
    """One kind of tensor: its names in both models, `*` standing for a layer's number, and the moves between them."""

    theirs: str
    ours: str
    to_ours: Move
    to_theirs: Move


def _keep(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    return tensor


def _turn(tensor: np.ndarray, _: ModelConfig) -> np.ndarray:
    """Also of stacked experts: [experts, out, in] <-> [experts, in, out]."""
    return np.swapaxes(tensor, -1, -2) if tensor.ndim > 1 else tensor


def _halves(tensor: np.ndarray, config: ModelConfig) -> Array:
    """[heads * head_dim, hidden] with neighbouring pairs -> [hidden, heads * head_dim] with pairs half a head apart."""
    half = config.attention.head_dim // 2

    def make() -> np.ndarray:
        pairs = tensor.reshape([-1, half, 2, tensor.shape[1]])
        return pairs.swapaxes(1, 2).reshape(tensor.shape).T

    fits = tensor.ndim == 2 and tensor.shape[0] % (2 * half) == 0
    return Deferred(tensor.dtype, tensor.shape[::-1], make) if fits else tensor


def _neighbours(tensor: np.ndarray, config: ModelConfig) -> Deferred:
    """The inverse of `_halves`."""
    half = config.attention.head_dim // 2

    def make() -> np.ndarray:
        rows = tensor.T
        return rows.reshape([-1, 2, half, rows.shape[1]]).swapaxes(1, 2).reshape(rows.shape)

    return Deferred(tensor.dtype, tensor.shape[::-1], make)


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
_STACKS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")  # [experts, out, in]; gate before up
_RULES = [
    _Rule("model.embed_tokens.weight", "text.embed_tokens.weight", _keep, _keep),
    _Rule("model.norm.weight", "decoder.norm.weight", _keep, _keep),
    _Rule("lm_head.weight", "text.lm_head.weight", _turn, _turn),
    *(_Rule(_THEIR_LAYER + name, _OUR_LAYER + name, *moves) for name, moves in _SAME_NAME.items()),
    _Rule(_THEIR_LAYER + _EXPERT_BIAS, _OUR_LAYER + "mlp.gate.expert_bias", _without_group, _with_group),
    *(_Rule(_THEIR_LAYER + name, _OUR_LAYER + name, _turn, _turn) for name in _STACKS),
]
_FROM_THEIRS = {rule.theirs: rule for rule in _RULES}
_FROM_OURS = {rule.ours: rule for rule in _RULES}

# As the published checkpoints have them: every expert by itself, the bias a level higher.
_SINGLE_EXPERT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight")
_PUBLISHED_BIAS = "mlp.moe_statics.e_score_correction_bias"
_PREDICTION_BLOCK = "model.mtp_"  # left out, as `Ernie4_5_MoeForCausalLM` itself does


def from_ernie45(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Array]:
    """Their tensors by name -> our state dict. Takes the names of the class's state dict and those of its checkpoints.

    The multi-token prediction block of some checkpoints and a copy of the tied head are left out. Raises UserError for
    a tensor that no ERNIE 4.5 text model has, or an expert that is missing or of another shape.
    """
    found: dict[str, Array] = {}
    experts: dict[str, dict[tuple[int, str], np.ndarray]] = {}
    for name, tensor in tensors.items():
        if single := _SINGLE_EXPERT.fullmatch(name):
            experts.setdefault(single[1], {})[int(single[2]), single[3]] = tensor
        elif not (name.startswith(_PREDICTION_BLOCK) or (config.tie_word_embeddings and name == "lm_head.weight")):
            rule, layer = _rule(name.replace(_PUBLISHED_BIAS, _EXPERT_BIAS), _FROM_THEIRS)
            found[rule.ours.replace("*", layer)] = rule.to_ours(tensor, config)
    for layer, parts in experts.items():
        found |= _stacked(layer, parts, config)
    return found


def to_ernie45(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Array]:
    """The inverse of `from_ernie45`: our state dict, or gradients by its names -> the class's state dict.

    Raises UserError for what `Ernie4_5_MoeForCausalLM` does not have, such as a prediction block.
    """
    return {
        rule.theirs.replace("*", layer): rule.to_theirs(tensors[name], config)
        for name in tensors
        for rule, layer in [_rule(name, _FROM_OURS)]
    }


def published_names(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The class's state dict as its checkpoints have it: every expert by itself."""
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        prefix = name.removesuffix("gate_up_proj").removesuffix("down_proj")
        if not name.endswith(_STACKS):
            found[name.replace(_EXPERT_BIAS, _PUBLISHED_BIAS)] = tensor
        elif name.endswith("down_proj"):
            found |= {f"{prefix}{i}.down_proj.weight": expert for i, expert in enumerate(tensor)}
        else:
            width = tensor.shape[1] // 2
            found |= {f"{prefix}{i}.gate_proj.weight": expert[:width] for i, expert in enumerate(tensor)}
            found |= {f"{prefix}{i}.up_proj.weight": expert[width:] for i, expert in enumerate(tensor)}
    return found


def _stacked(layer: str, parts: Mapping[tuple[int, str], np.ndarray], config: ModelConfig) -> dict[str, Deferred]:
    """The experts of a layer, each part [out, in], as ours: [experts, hidden, 2 * ffn] and [experts, ffn, hidden]."""
    count, width, hidden = config.moe.num_experts, config.moe.moe_intermediate_size, config.hidden_size
    prefix = f"model.layers.{layer}.mlp.experts."
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    (first, *_) = parts.values()
    for expert in range(max(count, 1 + max(number for number, _ in parts))):
        for kind, shape in shapes.items():
            part = parts.get((expert, kind))
            if part is None:
                raise UserError(f"{prefix}{expert}: has no {kind}_proj; copy the checkpoint again")
            if expert >= count:
                raise UserError(f"{prefix}{expert}: config.json has moe_num_experts {count}; copy the checkpoint again")
            if part.shape != shape or part.dtype != first.dtype:
                raise UserError(
                    f"{prefix}{expert}.{kind}_proj.weight: is {part.dtype} {list(part.shape)}, not {first.dtype} "
                    f"{list(shape)}; copy the checkpoint again"
                )

    def gate_up() -> np.ndarray:
        stack = np.empty([count, hidden, 2 * width], first.dtype)
        for expert in range(count):
            stack[expert, :, :width], stack[expert, :, width:] = parts[expert, "gate"].T, parts[expert, "up"].T
        return stack

    def down() -> np.ndarray:
        stack = np.empty([count, width, hidden], first.dtype)
        for expert in range(count):
            stack[expert] = parts[expert, "down"].T
        return stack

    ours = _OUR_LAYER.replace("*", layer)
    made = ((count, hidden, 2 * width), gate_up), ((count, width, hidden), down)
    return {ours + name: Deferred(first.dtype, *one) for name, one in zip(_STACKS, made, strict=True)}


def _rule(name: str, rules: Mapping[str, _Rule]) -> tuple[_Rule, str]:
    """The rule of a tensor and the number of its layer, as text."""
    number = re.search(r"\.layers\.(\d+)\.", name)
    pattern = name.replace(f".layers.{number[1]}.", ".layers.*.", 1) if number else name
    if pattern not in rules:
        raise UserError(f"{name}: no tensor of an ERNIE 4.5 text model without biases; convert only such models")
    return rules[pattern], number[1] if number else ""
