"""What a model is trained on: GPUs of one kind, in nodes of one size."""

from dataclasses import dataclass

from ernie5.config.load import load_as
from ernie5.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Figures of the data sheets, without sparsity; what is reached of them is in `assumptions.py`."""

    name: str
    gpus: int
    gpus_per_node: int
    memory_gib: float  # of a GPU, as its driver reports it
    bf16_tflops: float  # dense matrix products
    fp8_tflops: float = 0.0  # 0: the GPU has none
    memory_gb_per_s: float  # of a GPU to its own memory
    intra_gb_per_s: float  # of a GPU to the others of its node, one way
    intra_latency_us: float  # of a message within a node
    inter_gb_per_s: float  # of a GPU to other nodes, one way
    inter_latency_us: float

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30


@dataclass(frozen=True, kw_only=True)
class _ClusterFile:
    cluster: Cluster


def load_cluster(path: str, overrides: tuple[str, ...] = ()) -> Cluster:
    """The `cluster:` section of a file. UserError: as `load_config`; a figure out of range; a node that is not full."""
    cluster = load_as(_ClusterFile, path, overrides).cluster
    for name, value in vars(cluster).items():
        least = 0 if name.startswith(("fp8", "intra_latency", "inter_latency")) else 1e-9
        if not isinstance(value, str) and not least <= value < float("inf"):
            raise UserError(f"{path}: cluster.{name} is {value}: must be {'at least' if least == 0 else 'above'} 0")
    if cluster.gpus > cluster.gpus_per_node and cluster.gpus % cluster.gpus_per_node:
        raise UserError(
            f"{path}: cluster.gpus is {cluster.gpus}: must be whole nodes of gpus_per_node ({cluster.gpus_per_node})"
        )
    return cluster
