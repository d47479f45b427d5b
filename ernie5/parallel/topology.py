"""The process groups of a run: fleet's own, where fleet works on them, and those that it has no axis for."""

from collections.abc import Callable, Sequence

import paddle.distributed as dist
from paddle.distributed import fleet
from paddle.distributed.communication.group import Group
from paddle.distributed.fleet.base.topology import HybridCommunicateGroup
from paddle.distributed.fleet.utils.log_util import set_log_level

from ernie5.parallel.mesh import Mesh


def join_fleet(mesh: Mesh) -> HybridCommunicateGroup:
    """Fleet's topology with the axes of the mesh; the expert axis is there where `has_expert_axis`.

    Fleet numbers ranks as the mesh does, pipeline slowest and tensor fastest. Its sharding axis is data x context here:
    what shares optimizer state is decided by `Replicas`, and its context axis would put pipeline stages between.
    """
    set_log_level("ERROR")
    degrees = {"pp_degree": mesh.pipeline, "mp_degree": mesh.tensor, "dp_degree": 1, "sep_degree": 1}
    degrees["sharding_degree"] = mesh.data * mesh.context
    order = ["pp", "dp", "sharding", "sep", "mp"]
    if has_expert_axis(mesh):
        degrees |= {"ep_degree": mesh.expert, "moe_sharding_degree": mesh.stage_size // mesh.expert}
        order = ["pp", "moe_sharding", "ep", "dp", "sharding", "sep", "cp", "mp"]
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = degrees | {"order": order}
    fleet.init(is_collective=True, strategy=strategy)
    return fleet.get_hybrid_communicate_group()


def has_expert_axis(mesh: Mesh) -> bool:
    """Whether fleet has groups of experts. It mixes up the stages of a pipeline that has both replicas of experts and
    several processes with the same of them in its neighbourhood (`merge_inner_comm_list`, Paddle 3.3.1)."""
    replicas = mesh.stage_size // mesh.expert
    return mesh.expert > 1 and (mesh.pipeline == 1 or replicas == 1 or mesh.data * mesh.context == replicas)


def expert_group(mesh: Mesh, rank: int, hcg: HybridCommunicateGroup) -> Group:
    """The processes that have all experts together. All processes call it together."""
    return hcg.get_expert_parallel_group() if has_expert_axis(mesh) else own_group(mesh, rank, mesh.experts)


def own_group(mesh: Mesh, rank: int, ranks_of: Callable[[int], Sequence[int]]) -> Group | None:
    """The group `ranks_of` this process; None where it is alone. All processes call it together."""
    lists = sorted({tuple(ranks_of(other)) for other in range(mesh.processes)})
    groups = {ranks: dist.new_group(list(ranks)) for ranks in lists if len(ranks) > 1}
    return groups.get(tuple(ranks_of(rank)))
