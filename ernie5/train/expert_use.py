"""Which experts the kinds of tokens are sent to (report §6.4.1); the router itself never sees a kind.

The report counts, for each task, the share of its tokens that select an expert (Fig. 8), and finds some experts that
all modalities use and others that one does. Beside that we give one number a layer: the mutual information.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ernie5.layers.router import Router
from ernie5.modality.unified import TokenKind, UnifiedSequence
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.ops.router import Routing

KINDS = tuple(kind for kind in TokenKind if kind != TokenKind.PADDING)


@contextmanager
def watch_experts(model: Ernie5ForCausalLM, rows: Sequence[UnifiedSequence]) -> Iterator[dict[int, np.ndarray]]:
    """Layer id -> int64 [kinds, experts]: how often tokens of each of KINDS are sent to each expert.

    Filled while `rows` go through the decoder, each once, in order and in batches of any size. The routers are observed
    from outside, and as they were afterwards.
    """
    kinds = np.concatenate([row.token_kind for row in rows])
    layers = {layer_id: block.mlp.gate for layer_id, block in enumerate(model.decoder.layers) if block.routes}
    counts = {layer_id: np.zeros([len(KINDS), router.weight.shape[1]], np.int64) for layer_id, router in layers.items()}
    hooks = [
        router.register_forward_post_hook(_Counter(kinds, counts[layer_id])) for layer_id, router in layers.items()
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


class _Counter:
    """Of one layer: what it has seen of the rows so far is where the next batch begins."""

    def __init__(self, kinds: np.ndarray, counts: np.ndarray):
        self.kinds, self.counts, self.seen = kinds, counts, 0

    def __call__(self, _router: Router, _inputs: tuple, routing: Routing) -> None:
        topk_ids = routing.topk_ids.numpy()  # [tokens, top_k]
        kinds = self.kinds[self.seen : self.seen + len(topk_ids)]
        self.seen += len(topk_ids)
        for row, kind in enumerate(KINDS):
            self.counts[row] += np.bincount(topk_ids[kinds == kind].ravel(), minlength=self.counts.shape[1])


def expert_use(counts: Mapping[int, np.ndarray], rows: Sequence[UnifiedSequence]) -> dict[str, Any]:
    """What a run's log holds of `watch_experts`: of the kinds that occur, in the order of the layers that route.

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
