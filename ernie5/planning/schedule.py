"""The order in which pipeline ranks work: one forward, one backward (arXiv:2006.09503), plain or interleaved
(arXiv:2104.04473, §2.2)."""

from typing import NamedTuple


class Action(NamedTuple):
    """One pass of one microbatch through one piece of a rank."""

    is_forward: bool
    piece: int  # of the rank, 0 the earliest in the model
    microbatch: int


class Span(NamedTuple):
    action: Action
    start: float
    end: float


def warmup_passes(pipeline: int, virtual_stages: int, microbatches: int, rank: int) -> int:
    """Forward passes before the first backward one that alternates with a forward one.

    Plain: pipeline - 1 - rank. Interleaved: 2 * (pipeline - 1 - rank) + (virtual_stages - 1) * `first_group`.
    """
    behind = pipeline - 1 - rank
    if virtual_stages == 1:
        return min(behind, microbatches)
    warmup = 2 * behind + (virtual_stages - 1) * first_group(pipeline, microbatches)
    return min(warmup, microbatches * virtual_stages)


def first_group(pipeline: int, microbatches: int) -> int:
    """Microbatches that go through a rank's first piece before its second one begins: pipeline, and those over when
    microbatches are not a multiple of it. All later groups have pipeline (fleet's PipelineParallelWithInterleave)."""
    return pipeline + microbatches % pipeline


def passes_in_flight(pipeline: int, virtual_stages: int, microbatches: int, rank: int) -> int:
    """Most forward passes of a rank whose backward pass has not ended: those of the warm-up and one more."""
    warmup = warmup_passes(pipeline, virtual_stages, microbatches, rank)
    return min(warmup + 1, microbatches * virtual_stages)


def bubble_share(pipeline: int, virtual_stages: int, microbatches: int) -> float:
    """Idle time over work of a rank, pieces being equal: (pipeline - 1) / (virtual_stages * microbatches)."""
    return (pipeline - 1) / (virtual_stages * microbatches)


def forward_pass(pipeline: int, virtual_stages: int, microbatches: int, number: int) -> tuple[int, int]:
    """(piece, microbatch) of a rank's forward pass `number`: each group of microbatches through each piece in turn."""
    if virtual_stages == 1:
        return 0, number
    first = first_group(pipeline, microbatches)
    if number < first * virtual_stages:
        return divmod(number, first)
    group, place = divmod(number - first * virtual_stages, pipeline * virtual_stages)
    piece, member = divmod(place, pipeline)
    return piece, first + group * pipeline + member


def pieces_in_flight(pipeline: int, virtual_stages: int, microbatches: int, rank: int) -> list[int]:
    """`passes_in_flight` by piece of the rank, as they stand when the first backward pass begins."""
    held = [0] * virtual_stages
    for number in range(passes_in_flight(pipeline, virtual_stages, microbatches, rank)):
        held[forward_pass(pipeline, virtual_stages, microbatches, number)[0]] += 1
    return held


def actions(pipeline: int, virtual_stages: int, microbatches: int, rank: int) -> list[Action]:
    """All passes of a rank in a step, in order. Interleaved, there are at least as many microbatches as ranks."""

    def action(is_forward: bool, number: int) -> Action:
        piece, microbatch = forward_pass(pipeline, virtual_stages, microbatches, number)
        return Action(is_forward, piece if is_forward else virtual_stages - 1 - piece, microbatch)

    total = microbatches * virtual_stages
    warmup = warmup_passes(pipeline, virtual_stages, microbatches, rank)
    order = [action(True, number) for number in range(warmup)]
    for number in range(total - warmup):
        order += [action(True, warmup + number), action(False, number)]
    return order + [action(False, number) for number in range(total - warmup, total)]


def run(
    pipeline: int, virtual_stages: int, microbatches: int, forward: float = 1.0, backward: float = 2.0
) -> list[list[Span]]:
    """When each rank does what, if a piece takes `forward` and `backward` and messages take no time.

    A forward pass waits for the piece before it, a backward pass for the piece behind it; a rank does its actions in
    their order, each as soon as it can.
    """
    waiting = [actions(pipeline, virtual_stages, microbatches, rank) for rank in range(pipeline)]
    spans: list[list[Span]] = [[] for _ in waiting]
    ended: dict[tuple[bool, int, int], float] = {}  # (is_forward, piece of the model, microbatch) -> time
    last = pipeline * virtual_stages - 1
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(waiting):
            while len(spans[rank]) < len(order):
                action = order[len(spans[rank])]
                piece = action.piece * pipeline + rank
                before = (True, piece - 1) if action.is_forward else (False, piece + 1)
                if not action.is_forward and piece == last:
                    before = (True, piece)
                ready = 0.0 if before == (True, -1) else ended.get((*before, action.microbatch))
                if ready is None:
                    break
                start = max(ready, spans[rank][-1].end if spans[rank] else 0.0)
                span = Span(action, start, start + (forward if action.is_forward else backward))
                spans[rank].append(span)
                ended[(action.is_forward, piece, action.microbatch)] = span.end
                moved = True
    return spans
