"""A member of the elastic family as a model of its own (report §3.3): its layers, experts and top-k, and nothing else.

Layers are numbered anew, leading dense ones stay in front, and the experts of a layer keep their order. What decides
the outputs is only moved, so that the smaller model computes what the full one computes under the member's mask.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.model.block import is_moe_layer
from ernie5.model.safetensors_file import Deferred
from ernie5.model.subnet import Subnet

_LAYERS, _MTP = "decoder.layers.", "mtp."
# Where the experts lie in the tensors of a layer that routes, by the ends of their names.
_EXPERT_AXES = {
    "mlp.gate.weight": 1,
    "mlp.gate.expert_bias": 0,
    "mlp.experts.gate_up_proj": 0,
    "mlp.experts.down_proj": 0,
}


def extracted_config(config: ModelConfig, subnet: Subnet, name: str) -> ModelConfig:
    """The settings of the model that `subnet` is.

    Raises UserError for a subnet that no model of its own can be: without layers or with layers the model does not
    have, without the layers whose hidden states the heads of audio read, with other numbers of experts in layers that
    route, or with fewer experts than its top-k.
    """
    kept, layers = subnet.layer_ids, config.num_hidden_layers
    if not kept or sorted(set(kept) & set(range(layers))) != list(kept):
        raise UserError(f"the layers {list(kept)}: keep at least one of 0 to {layers - 1}, each once, in rising order")
    levels = config.audio.num_codebooks if config.audio is not None else 0
    if list(kept)[len(kept) - levels :] != list(range(layers - levels, layers)):
        raise UserError(
            f"the layers {list(kept)}: keep layers {layers - levels} to {layers - 1}, behind which the {levels} levels "
            "of audio's codes are read"
        )
    experts, top_k = _num_experts(config, subnet), subnet.top_k
    if config.moe.num_experts and not 1 <= top_k <= experts:
        raise UserError(f"the top-k {top_k}: must lie between 1 and the number of experts that are kept ({experts})")
    dense = sum(layer_id < config.moe.num_dense_layers for layer_id in kept)
    moe = replace(config.moe, num_experts=experts, num_experts_per_tok=top_k, num_dense_layers=dense)
    return replace(config, name=name, num_hidden_layers=len(kept), moe=moe)


def extracted_tensors(
    tensors: Mapping[str, np.ndarray], config: ModelConfig, subnet: Subnet
) -> dict[str, np.ndarray | Deferred]:
    """The tensors of that model by name, of those of the full model: its arrays, or such as are cut when written.

    `config` is the full model's, which `extracted_config` has taken `subnet` of.
    """
    experts = subnet.experts_kept()
    number = {str(old): new for new, old in enumerate(subnet.layer_ids)}
    found: dict[str, np.ndarray | Deferred] = {}
    for name, tensor in tensors.items():
        if name.startswith(_LAYERS):
            old, _, rest = name.removeprefix(_LAYERS).partition(".")
            if old in number:
                found[f"{_LAYERS}{number[old]}.{rest}"] = _cut(name, tensor, experts[int(old)])
        elif name.startswith(_MTP):
            found[name] = _cut(name, tensor, experts[config.num_hidden_layers])
        else:
            found[name] = tensor
    return found


def routing_rows(config: ModelConfig, layer_ids: tuple[int, ...]) -> list[int]:
    """The rows of an expert mask that matter: of those layers and the prediction block, the ones that route."""
    mtp = range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers)
    return [row for row in (*layer_ids, *mtp) if is_moe_layer(config, row)]


def _num_experts(config: ModelConfig, subnet: Subnet) -> int:
    """Of every layer that routes: `config.json` has one number for all."""
    rows = routing_rows(config, subnet.layer_ids)
    counts = {row: int(subnet.experts_kept()[row].sum()) for row in rows}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} in {_row_name(config, row)}" for row, count in counts.items())
        raise UserError(f"the experts: {said}; keep as many in every layer, for a model has one num_experts")
    return next(iter(counts.values()), config.moe.num_experts)


def _row_name(config: ModelConfig, row: int) -> str:
    return "the prediction block" if row == config.num_hidden_layers else f"layer {row}"


def _cut(name: str, tensor: np.ndarray, kept: np.ndarray) -> np.ndarray | Deferred:
    axis = next((axis for end, axis in _EXPERT_AXES.items() if name.endswith(end)), None)
    if axis is None or kept.all():
        return tensor
    shape = list(tensor.shape)
    shape[axis] = int(kept.sum())
    return Deferred(tensor.dtype, tuple(shape), partial(np.compress, kept, tensor, axis))
