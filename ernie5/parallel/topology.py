"""The process groups of a run: fleet's own, where fleet works on them, and those that it has no axis for."""

from collections.abc import Callable, Sequence

import paddle.distributed as dist
from paddle.distributed import fleet
from paddle.distributed.communication.group import Group
from paddle.distributed.fleet.base.topology import HybridCommunicateGroup
from paddle.distributed.fleet.utils.log_util import set_log_level

from ernie5.parallel.mesh import Mesh


def join_fleet(mesh: Mesh) -> HybridCommunicateGroup:
    """Fleet's topology with the axes of the mesh; the expert axis is there only when it is named.

    Fleet numbers ranks as the mesh does, pipeline slowest and tensor fastest. Its sharding axis is data x context here:
    what shares optimizer state is decided by `Replicas`, and its context axis would put pipeline stages between.
    """
    set_log_level("ERROR")
    degrees = {"pp_degree": mesh.pipeline, "mp_degree": mesh.tensor, "dp_degree": 1, "sep_degree": 1}
    degrees["sharding_degree"] = mesh.data * mesh.context
    order = ["pp", "dp", "sharding", "sep", "mp"]
    if mesh.expert > 1:
        degrees |= {"ep_degree": mesh.expert, "moe_sharding_degree": mesh.stage_size // mesh.expert}
        order = ["pp", "moe_sharding", "ep", "dp", "sharding", "sep", "cp", "mp"]
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = degrees | {"order": order}
    fleet.init(is_collective=True, strategy=strategy)
    return fleet.get_hybrid_communicate_group()


def own_group(mesh: Mesh, rank: int, ranks_of: Callable[[int], Sequence[int]]) -> Group | None:
    """The group `ranks_of` this process; None where it is alone. All processes call it together."""
    lists = sorted({tuple(ranks_of(other)) for other in range(mesh.processes)})
    groups = {ranks: dist.new_group(list(ranks)) for ranks in lists if len(ranks) > 1}
    return groups.get(tuple(ranks_of(rank)))
