"""Expert parallelism: every process of a group has an equal run of each layer's experts, and tokens travel to them."""

from paddle.distributed.communication.group import Group

from ernie5.layers.moe import MoE
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.parallel.cutting import cut_parameter
from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher
from ernie5.parallel.pieces import Cut


def spread_experts(
    model: Ernie5ForCausalLM, group: Group, dispatcher: type[ExpertParallelDispatcher]
) -> dict[str, Cut]:
    """Leaves this process its run of the experts of every layer; name -> where that lies."""
    cuts = {}
    for name, layer in model.named_sublayers():
        if not isinstance(layer, MoE):
            continue
        layer.dispatcher = dispatcher(layer.dispatcher.num_experts, group)
        for key, _ in list(layer.experts.named_parameters()):
            cuts[f"{name}.experts.{key}"] = cut = Cut(0, group.rank, group.nranks)
            cut_parameter(layer.experts, key, cut)
    return cuts
