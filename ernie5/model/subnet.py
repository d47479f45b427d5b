"""A sub-network is a value: the full model is the one that keeps everything (report §3.3)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import paddle

from ernie5.config.schema import ModelConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Subnet:
    """One member of the elastic family."""

    layer_ids: tuple[int, ...]  # decoder layers to run, ascending
    expert_mask: paddle.Tensor  # float32 [layers + mtp blocks, experts]: 0 keeps an expert, -inf removes it
    top_k: int  # experts a token is sent to

    @cached_property
    def layer_masks(self) -> list[paddle.Tensor]:
        """`expert_mask` row by row."""
        return paddle.unbind(self.expert_mask, 0)

    def experts_kept(self) -> np.ndarray:
        """bool [layers + mtp blocks, experts]."""
        return np.isfinite(self.expert_mask.numpy())


def full_subnet(config: ModelConfig) -> Subnet:
    """The member that keeps every layer, every expert and the configured top-k."""
    layers = tuple(range(config.num_hidden_layers))
    return make_subnet(config, layers, None, config.moe.num_experts_per_tok)


def make_subnet(config: ModelConfig, layer_ids: Iterable[int], experts: np.ndarray | None, top_k: int) -> Subnet:
    """experts: bool [layers + mtp blocks, experts] of those kept, or None for all."""
    rows = config.num_hidden_layers + config.num_nextn_predict_layers
    mask = np.zeros([rows, config.moe.num_experts], np.float32)
    if experts is not None:
        mask[~experts] = -np.inf
    return Subnet(layer_ids=tuple(layer_ids), expert_mask=paddle.to_tensor(mask), top_k=top_k)
