"""What cannot be counted: how numbers are kept, what of a data sheet is reached, what hides behind what."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Bytes of a number."""

    weight: int
    gradient: int
    state: int  # of one parameter in the optimizer: master weight and two moments
    activation: int
    mlp_input: int  # of an activation that a feed-forward product reads, also while it travels to its expert


# float8 is that of feed-forward products alone, as ERNIE 4.5 trains: quantised rows are sent and kept, weights stay.
NUMBERS = {
    "float32": Bytes(weight=4, gradient=4, state=8, activation=4, mlp_input=4),
    "bfloat16": Bytes(weight=2, gradient=2, state=12, activation=2, mlp_input=2),
    "float8": Bytes(weight=2, gradient=2, state=12, activation=2, mlp_input=1),
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a layout is run. The first of each is what this package does."""

    precision: Literal["bfloat16", "float8", "float32"] = "bfloat16"
    recompute: Literal["none", "full"] = "none"
    dispatch: Literal["rank", "node"] = "rank"  # a row crosses to each rank, or once to each node, as DeepEP sends it
    expert_overlap: float = 0.0  # share of the all-to-all that hides behind computation (DualPipe: nearly 1)

    @property
    def bytes(self) -> Bytes:
        return NUMBERS[self.precision]


# Shares of the data sheet that are reached. These decide the predicted time; each is a judgement near what is named.
MATMUL = 0.70  # dense bfloat16 products: cuBLAS on Hopper reaches 650 to 750 of 989 TFLOP/s on large ones
ATTENTION = 0.50  # FlashAttention-3, causal, heads of 128: 0.6 forward, 0.5 backward (arXiv:2407.08608, fig. 5, 6)
EXPERTS = 0.60  # products grouped by expert, bfloat16: dense ones less the tails of uneven groups
EXPERTS_FLOAT8 = 0.50  # DeepGEMM's grouped products reach about 0.6; quantising rows and weights takes the rest
MEMORY = 0.80  # of the GPU's memory, streams of reads and writes
NETWORK = 0.80  # 160 of 200 GB/s of H800's NVLink, 40 to 47 of 50 GB/s of InfiniBand (DeepEP's and NCCL's own tables)

# A saved activation is written and read in the forward pass, and its gradient and itself twice in the backward pass.
PASSES_OVER_ACTIVATIONS = 6

# Memory beside what is counted.
RUNTIME_BYTES = 4 * 2**30  # CUDA context, NCCL's channels, workspace of cuBLAS, holes of the allocator
GRADIENT_BUCKET_BYTES = 512 * 2**20  # fused gradients on their way (one bucket filled, one travelling)
LOGIT_CHUNK_BYTES = 256 * 2**20  # logits that exist at once (custom_ops/cross_entropy/op.cc)
USABLE_MEMORY = 0.96  # of the GPU's memory; a layout that fills more is refused
