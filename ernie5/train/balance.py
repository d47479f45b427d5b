"""Balance without an auxiliary loss: after each step every expert's bias moves against its load (arXiv:2408.15664).

The bias is moved here, on whatever runs this process: one CPU process without fleet balances like a cluster.
"""

from typing import NamedTuple

import numpy as np
import paddle

from ernie5.layers.router import Router
from ernie5.model.block import is_moe_layer
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.parallel.data_parallel import Ranks


class LoadMetrics(NamedTuple):
    """In the order of the layers that route. None where a layer did not run."""

    load: list[list[int]]  # tokens sent to each expert
    max_over_mean: list[float | None]  # 1: even; the number of experts over top-k: all to the same
    entropy: list[float | None]  # of the load over log(experts): 1: even (report §6.4.1)


class ExpertBalance:
    """Collects the load of a step and updates the routers' biases from it."""

    def __init__(self, model: Ernie5ForCausalLM):
        config, blocks = model.config, model.blocks().items()
        self.num_experts = config.moe.num_experts
        self.num_layers = config.num_hidden_layers + config.num_nextn_predict_layers
        self.routing_ids = [layer_id for layer_id in range(self.num_layers) if is_moe_layer(config, layer_id)]
        self.routers: dict[int, Router] = {layer_id: block.mlp.gate for layer_id, block in blocks if block.routes}
        self.loads: dict[int, np.ndarray] = {}  # of the running step
        self.window: dict[int, np.ndarray] = {}  # of the steps since `take_window`

    def collect(self, tokens_per_expert: dict[int, paddle.Tensor]) -> None:
        """Adds the load of one micro-batch."""
        for layer_id, load in tokens_per_expert.items():
            self.loads[layer_id] = self.loads.get(layer_id, 0) + load.numpy()

    def sum_over(self, ranks: Ranks) -> None:
        """Makes the load of the step that of all processes. Each has that of its own layers; all know then of all."""
        total = np.zeros([self.num_layers, self.num_experts + 1], np.int64)
        for layer_id, load in self.loads.items():
            total[layer_id] = [*load, 1]  # that it ran, if on no token
        total = ranks.summed(total)
        self.loads = {layer_id: load[:-1] for layer_id, load in enumerate(total) if load[-1]}

    def update(self, subnet: Subnet, speed: float) -> LoadMetrics:
        """bias += speed * sign(mean load - load), for the layers and the experts that this step's subnet kept."""
        kept = subnet.experts_kept()
        metrics = LoadMetrics([], [], [])
        for layer_id, load in sorted(self.loads.items()):
            keep = kept[layer_id]
            error = np.where(keep, load[keep].mean() - load, 0.0)
            if layer_id in self.routers:
                bias = self.routers[layer_id].expert_bias
                bias.set_value(bias.numpy() + np.float32(speed) * np.sign(error, dtype=np.float32))
            self.window[layer_id] = self.window.get(layer_id, 0) + load
            metrics.load.append(load.tolist())
            metrics.max_over_mean.append(float(load.max() / load[keep].mean()))
            metrics.entropy.append(normalized_entropy(load[keep]))
        self.loads = {}
        return metrics

    def take_window(self) -> LoadMetrics:
        """The load over the steps since the last call: one batch, of a few texts, is too small a sample to judge by."""
        metrics = LoadMetrics([], [], [])
        for layer_id in self.routing_ids:
            load = self.window.get(layer_id)
            ran = load is not None
            metrics.load.append(load.tolist() if ran else [0] * self.num_experts)
            metrics.max_over_mean.append(float(load.max() / load.mean()) if ran else None)
            metrics.entropy.append(normalized_entropy(load) if ran else None)
        self.window = {}
        return metrics


def normalized_entropy(load: np.ndarray) -> float:
    """-sum p log p / log n of a load over n experts, in [0, 1] (report §6.4.1, Fig. 10)."""
    share = load[load > 0] / load.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(load))) if len(load) > 1 else 1.0
