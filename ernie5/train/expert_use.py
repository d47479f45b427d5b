"""Which experts the kinds of tokens are sent to (report §6.4.1); the router itself never sees a kind.

The report counts, for each task, the share of its tokens that select an expert (Fig. 8), and finds some experts that
all modalities use and others that one does. Beside that we give one number a layer: the mutual information.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ernie5.config.schema import ModelConfig
from ernie5.layers.router import Router
from ernie5.modality.unified import TokenKind, UnifiedSequence
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.ops.router import Routing
from ernie5.parallel.data_parallel import Ranks

KINDS = tuple(kind for kind in TokenKind if kind != TokenKind.PADDING)


class ExpertWatch:
    """Layer id -> int64 [kinds, experts] in `counts`: how often tokens of each of KINDS are sent to each expert.

    Of the layers that this process has, and of the tokens that it was told to expect and that have then gone through.
    """

    def __init__(self, routers: Mapping[int, Router]):
        self.counts = {
            layer_id: np.zeros([len(KINDS), router.weight.shape[1]], np.int64) for layer_id, router in routers.items()
        }
        self._kinds = np.zeros([0], np.int64)  # of the tokens to come; each layer has its own place in them
        self._seen = dict.fromkeys(routers, 0)

    def expect(self, kinds: Iterable[np.ndarray]) -> None:
        """The kinds of tokens, of any shape, that go through the decoder next, in order and in batches of any size."""
        self._kinds = np.concatenate([self._kinds, *(one.ravel() for one in kinds)])

    def see(self, layer_id: int, topk_ids: np.ndarray) -> None:
        """topk_ids [tokens, top_k] of the next tokens of a layer."""
        seen = self._seen[layer_id]
        self._seen[layer_id] += len(topk_ids)
        kinds = self._kinds[seen : seen + len(topk_ids)]
        for row, kind in enumerate(KINDS):
            chosen = topk_ids[kinds == kind].ravel()
            self.counts[layer_id][row] += np.bincount(chosen, minlength=self.counts[layer_id].shape[1])


@contextmanager
def watch_experts(model: Ernie5ForCausalLM) -> Iterator[ExpertWatch]:
    """The routers of this process's layers are observed from outside, and as they were afterwards."""
    routers = {layer_id: block.mlp.gate for layer_id, block in model.blocks().items() if block.routes}
    watch = ExpertWatch(routers)

    def hook(layer_id: int) -> Callable[[Router, tuple, Routing], None]:
        return lambda _router, _inputs, routing: watch.see(layer_id, routing.topk_ids.numpy())

    hooks = [router.register_forward_post_hook(hook(layer_id)) for layer_id, router in routers.items()]
    try:
        yield watch
    finally:
        for one in hooks:
            one.remove()


def counts_of_all(watch: ExpertWatch, ranks: Ranks, config: ModelConfig) -> dict[int, np.ndarray]:
    """The counts of all processes, each of which saw tokens or layers of its own. All call it together."""
    rows = config.num_hidden_layers + config.num_nextn_predict_layers
    total = np.zeros([rows, len(KINDS), config.moe.num_experts], np.int64)
    for layer_id, count in watch.counts.items():
        total[layer_id] = count
    total = ranks.summed(total)
    return {layer_id: count for layer_id, count in enumerate(total) if count.any()}


def expert_use(counts: Mapping[int, np.ndarray], rows: Sequence[UnifiedSequence]) -> dict[str, Any]:
    """What a run's log holds of `counts_of_all`: of the kinds that occur, in the order of the layers that route.

    `tokens`: of each kind. `shares`: a layer's by kind, the share of the kind's tokens that each expert gets; they sum
    to top-k. `bits`: a layer's mutual information.
    """
    kinds = np.concatenate([row.token_kind for row in rows])
    tokens = {kind.name.lower(): int((kinds == kind).sum()) for kind in KINDS}
    tokens = {name: number for name, number in tokens.items() if number}
    names = [kind.name.lower() for kind in KINDS]
    shares = [
        {name: (row / tokens[name]).tolist() for name, row in zip(names, count, strict=True) if name in tokens}
        for _, count in sorted(counts.items())
    ]
    return {
        "layers": sorted(counts),
        "tokens": tokens,
        "shares": shares,
        "bits": [mutual_information(np.array(list(layer.values()))) for layer in shares],
    }


def mutual_information(use: np.ndarray) -> float:
    """Between kind and expert, in bits: of `use` [kinds, experts], no row all zero, with all kinds equally likely.

    0: all kinds use the experts alike; log2(kinds): no expert is used by two. With kinds equally likely it does not
    depend on the mix of the data; it is then the Jensen-Shannon divergence of the kinds' experts. Few tokens make it
    too large, by about (kinds - 1) (experts - 1) / (2 ln 2 slots).
    """
    given_kind = use / use.sum(1, keepdims=True)  # p(expert | kind)
    ratio = np.divide(given_kind, given_kind.mean(0), where=given_kind > 0, out=np.ones_like(given_kind))
    return float((given_kind * np.log2(ratio)).sum(1).mean())
