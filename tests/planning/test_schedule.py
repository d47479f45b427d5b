import pytest

from ernie5.planning.schedule import (
    Action,
    actions,
    bubble_share,
    passes_in_flight,
    pieces_in_flight,
    run,
    warmup_passes,
)

PLAIN = [(1, 1, 3), (2, 1, 1), (2, 1, 5), (4, 1, 2), (4, 1, 4), (4, 1, 9), (5, 1, 12)]
INTERLEAVED = [
    (4, 2, 9),
    (4, 2, 11),
    (3, 3, 7),
    (5, 3, 14),
    (2, 2, 2),
    (2, 2, 6),
    (3, 2, 6),
    (4, 2, 8),
    (4, 3, 12),
    (3, 4, 9),
    (2, 5, 8),
]
FORWARD, BACKWARD = 1.0, 2.0


def test_the_plain_schedule_is_that_of_the_paper():
    """arXiv:2104.04473, figure 4: the second of four ranks, eight microbatches."""
    marks = ["F" + str(a.microbatch) if a.is_forward else "B" + str(a.microbatch) for a in actions(4, 1, 8, 1)]
    assert " ".join(marks) == "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7"


def test_the_interleaved_warm_up_is_that_of_fleet():
    """2 * (ranks behind) + (virtual_stages - 1) * pipeline, as fleet's PipelineParallelWithInterleave begins."""
    assert [warmup_passes(4, 2, 8, rank) for rank in range(4)] == [10, 8, 6, 4]
    assert [warmup_passes(3, 3, 6, rank) for rank in range(3)] == [10, 8, 6]
    assert [warmup_passes(3, 3, 8, rank) for rank in range(3)] == [14, 12, 10]


@pytest.mark.parametrize(("pipeline", "virtual", "count"), PLAIN + INTERLEAVED)
def test_every_piece_sees_every_microbatch_once_each_way(pipeline: int, virtual: int, count: int):
    every = {Action(way, piece, one) for way in (True, False) for piece in range(virtual) for one in range(count)}
    for rank in range(pipeline):
        order = actions(pipeline, virtual, count, rank)
        assert len(order) == len(every)
        assert set(order) == every


@pytest.mark.parametrize(("pipeline", "virtual", "count"), PLAIN + INTERLEAVED)
def test_the_schedule_runs_without_waiting_for_ever(pipeline: int, virtual: int, count: int):
    for rank, spans in enumerate(run(pipeline, virtual, count)):
        assert [span.action for span in spans] == actions(pipeline, virtual, count, rank)


@pytest.mark.parametrize(("pipeline", "virtual", "count"), PLAIN + INTERLEAVED)
def test_the_bubble_is_what_the_simulated_ranks_idle(pipeline: int, virtual: int, count: int):
    end = max(spans[-1].end for spans in run(pipeline, virtual, count, FORWARD, BACKWARD))
    work = virtual * count * (FORWARD + BACKWARD)
    assert (end - work) / work == pytest.approx(bubble_share(pipeline, virtual, count))


@pytest.mark.parametrize(("pipeline", "virtual", "count"), PLAIN + INTERLEAVED)
def test_passes_in_flight_are_those_of_the_simulation(pipeline: int, virtual: int, count: int):
    for rank in range(pipeline):
        held = most = 0
        for action in actions(pipeline, virtual, count, rank):
            held += 1 if action.is_forward else -1
            most = max(most, held)
        assert held == 0
        assert passes_in_flight(pipeline, virtual, count, rank) == most


@pytest.mark.parametrize(("pipeline", "virtual", "count"), PLAIN + INTERLEAVED)
def test_pieces_in_flight_are_counted_at_the_first_backward_pass(pipeline: int, virtual: int, count: int):
    for rank in range(pipeline):
        held = [0] * virtual
        for action in actions(pipeline, virtual, count, rank):
            if not action.is_forward:
                break
            held[action.piece] += 1
        assert pieces_in_flight(pipeline, virtual, count, rank) == held


def test_a_rank_does_one_thing_at_a_time():
    for spans in run(4, 2, 8):
        assert all(one.end <= other.start for one, other in zip(spans, spans[1:], strict=False))


def test_a_pass_waits_for_the_piece_before_it():
    pipeline, virtual = 3, 2
    end = {}
    for rank, spans in enumerate(run(pipeline, virtual, 6)):
        for action, start, stop in spans:
            end[action.is_forward, action.piece * pipeline + rank, action.microbatch] = (start, stop)
    for (is_forward, piece, microbatch), (start, _) in end.items():
        before = end.get((is_forward, piece - 1 if is_forward else piece + 1, microbatch))
        if not is_forward and piece == pipeline * virtual - 1:
            before = end[True, piece, microbatch]
        assert before is None or before[1] <= start
