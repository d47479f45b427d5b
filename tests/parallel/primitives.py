"""Run as a program on several processes: every method of a group against what NumPy makes of the same values.

    python primitives.py COUNT FOLDER

Each process writes {method: "" or what was wrong} for `test_gloo.py`.
"""

import json
import sys
import threading
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

SHAPES = ((6,), (4, 3), (0, 5), (), (24, 1024))  # the last is more than what is summed in one round


def main(count: int, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle.distributed as dist

        from ernie5.parallel import gloo

        gloo.install()
        gloo.install()  # twice is once
        dist.init_parallel_env()
        rank = dist.get_rank()
        found = {}
        for name, check in CHECKS.items():
            try:
                check(rank, count)
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
            dist.barrier()
        (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


CHECKS = {}


def checked(function):
    CHECKS[function.__name__] = function
    return function


def values(rank: int, shape=(6,), dtype: str = "float32", seed: int = 0):
    """What a process gives; whole numbers, so that sums are exact in every dtype."""
    import numpy as np

    return np.random.default_rng([seed, rank]).integers(0, 9, shape).astype(dtype)


def tensor(rank: int, shape=(6,), dtype: str = "float32", seed: int = 0):
    import paddle

    return paddle.to_tensor(values(rank, shape, "float32" if dtype == "bfloat16" else dtype, seed)).astype(dtype)


def same(found, expected) -> None:
    import numpy as np

    np.testing.assert_array_equal(found.astype("float64").numpy(), expected)


@checked
def all_reduce(rank, size):
    import numpy as np
    import paddle.distributed as dist

    combine = {"SUM": np.sum, "MAX": np.max, "MIN": np.min, "PROD": np.prod}
    for shape in SHAPES:
        for dtype in ("float32", "float64", "int64", "int32", "bfloat16", "float16"):
            for op, function in combine.items():
                if op == "PROD" and dtype in ("bfloat16", "float16", "float32", "int32"):
                    continue  # of eight: not exact
                of_all = np.stack([values(one, shape, "float64") for one in range(size)])
                mine = tensor(rank, shape, dtype)
                dist.all_reduce(mine, getattr(dist.ReduceOp, op))
                same(mine, function(of_all, axis=0))
    later = tensor(rank)
    dist.all_reduce(later, sync_op=False).wait()
    same(later, sum(values(one) for one in range(size)))


@checked
def sums_are_the_same_bits_everywhere(rank, size):
    import numpy as np
    import paddle
    import paddle.distributed as dist

    for shape in ((7,), (200, 333)):
        mine = paddle.to_tensor(np.random.default_rng(rank).normal(size=shape).astype("float32"))
        dist.all_reduce(mine)
        gathered = []
        dist.all_gather(gathered, mine)
        for other in gathered:
            np.testing.assert_array_equal(other.numpy(), mine.numpy())
        total = np.random.default_rng(0).normal(size=shape).astype("float32")
        for one in range(1, size):
            total += np.random.default_rng(one).normal(size=shape).astype("float32")
        np.testing.assert_array_equal(mine.numpy(), total)  # in the order of the ranks


@checked
def reduce(rank, size):
    import paddle.distributed as dist

    for dst in range(size):
        mine = tensor(rank, (4, 3), seed=dst)
        dist.reduce(mine, dst)
        expected = values(rank, (4, 3), seed=dst)
        same(mine, sum(values(one, (4, 3), seed=dst) for one in range(size)) if rank == dst else expected)


@checked
def broadcast(rank, size):
    import paddle.distributed as dist

    for src in range(size):
        for dtype in ("float32", "int64", "bfloat16", "bool", "uint8"):
            mine = tensor(rank, (3, 2), dtype, seed=src)
            dist.broadcast(mine, src)
            same(mine, values(src, (3, 2), "float32" if dtype == "bfloat16" else dtype, src).astype("float64"))


@checked
def a_tensor_that_is_not_contiguous(rank, size):
    import paddle.distributed as dist

    whole = tensor(rank, (4, 6))
    part = whole.transpose([1, 0])[1:3]
    dist.broadcast(part, 0)
    same(part, values(0, (4, 6)).T[1:3])


@checked
def all_gather(rank, size):
    import numpy as np
    import paddle
    import paddle.distributed as dist

    for shape in SHAPES:
        found = []
        dist.all_gather(found, tensor(rank, shape))
        assert len(found) == size
        for one, other in enumerate(found):
            same(other, values(one, shape))
    out = paddle.empty([2 * size, 3])
    dist.stream.all_gather(out, tensor(rank, (2, 3)))
    same(out, np.concatenate([values(one, (2, 3)) for one in range(size)]))


@checked
def objects(rank, size):
    import paddle.distributed as dist

    found = []
    dist.all_gather_object(found, {"rank": rank, "text": "x" * rank})
    assert found == [{"rank": one, "text": "x" * one} for one in range(size)]


@checked
def gather(rank, size):
    import paddle.distributed as dist

    found = []
    dist.gather(tensor(rank, (2, 2)), found if rank == size - 1 else None, dst=size - 1)
    if rank == size - 1:
        for one, other in enumerate(found):
            same(other, values(one, (2, 2)))


@checked
def scatter(rank, size):
    import paddle
    import paddle.distributed as dist

    mine = paddle.zeros([3])
    dist.scatter(mine, [tensor(one, (3,)) for one in range(size)] if rank == 1 else None, src=1)
    same(mine, values(rank, (3,)))


@checked
def reduce_scatter(rank, size):
    import paddle
    import paddle.distributed as dist

    mine = paddle.zeros([2, 3])
    dist.reduce_scatter(mine, [tensor(rank, (2, 3), seed=piece) for piece in range(size)])
    same(mine, sum(values(one, (2, 3), seed=rank) for one in range(size)))
    whole, mine = tensor(rank, (size * 2, 3)), paddle.zeros([2, 3])
    dist.stream.reduce_scatter(mine, whole)
    same(mine, sum(values(one, (size * 2, 3)) for one in range(size))[2 * rank : 2 * rank + 2])


@checked
def all_to_all(rank, size):
    import numpy as np
    import paddle
    import paddle.distributed as dist

    found = []
    dist.alltoall(found, [tensor(rank, (2, 2), seed=to) for to in range(size)])
    for one, other in enumerate(found):
        same(other, values(one, (2, 2), seed=rank))
    counts = np.array([[(3 * one + to) % 4 for to in range(size)] for one in range(size)])  # some are 0
    rows = tensor(rank, (int(counts[rank].sum()), 5))
    out = paddle.empty([int(counts[:, rank].sum()), 5])
    dist.alltoall_single(out, rows, counts[rank].tolist(), counts[:, rank].tolist())
    parts = []
    for one in range(size):
        start = counts[one, :rank].sum()
        parts.append(values(one, (int(counts[one].sum()), 5))[start : start + counts[one, rank]])
    same(out, np.concatenate(parts))


@checked
def messages_in_any_order(rank, size):
    """Each sends two to all before it takes any: what blocks until it is received would stand still."""
    import paddle
    import paddle.distributed as dist

    others = [one for one in range(size) if one != rank]
    for number in range(2):
        for to in others:
            dist.send(tensor(rank, (300, 400), seed=to + 100 * number), to)
    for number in range(2):
        for sender in reversed(others):
            mine = paddle.zeros([300, 400])
            dist.recv(mine, sender)
            same(mine, values(sender, (300, 400), seed=rank + 100 * number))


@checked
def messages_that_are_waited_for_later(rank, size):
    import paddle
    import paddle.distributed as dist

    to, sender = (rank + 1) % size, (rank - 1) % size
    first, second = paddle.zeros([4]), paddle.zeros([6])
    tasks = [dist.irecv(first, sender), dist.irecv(second, sender)]
    dist.isend(tensor(rank, (4,)), to)
    dist.isend(tensor(rank, (6,), seed=1), to)
    tasks[1].wait()  # the second before the first
    tasks[0].wait()
    same(first, values(sender, (4,)))
    same(second, values(sender, (6,), seed=1))
    mine = paddle.zeros([6])
    pair = [dist.P2POp(dist.isend, tensor(rank), to), dist.P2POp(dist.irecv, mine, sender)]
    for task in dist.batch_isend_irecv(pair):
        task.wait()
    same(mine, values(sender))


@checked
def parts_of_messages(rank, size):
    import numpy as np
    import paddle
    import paddle.distributed as dist

    group = dist.collective._get_default_group().process_group
    if rank == 0:
        group.send_partial_on_calc_stream(tensor(0, (4, 4)), 1, 2, 1)
    if rank == 1:
        mine = paddle.zeros([4, 4])
        group.recv_partial_on_calc_stream(mine, 0, 2, 1)
        same(mine, np.concatenate([np.zeros([2, 4]), values(0, (4, 4))[2:]]))
    whole, mine = tensor(7, (size, 4)), paddle.zeros([size, 4])
    group.all_gather_partial_on_calc_stream(mine, whole, size, rank)
    same(mine, values(7, (size, 4)))


@checked
def groups_that_overlap(rank, size):
    import paddle.distributed as dist

    members = [list(range(0, size, 2)), list(range(1, size, 2)), list(range(size // 2)), list(range(size // 2, size))]
    members += [[one, (one + 1) % size] for one in range(size)] + [[rank_] for rank_ in range(size)]
    groups = [dist.new_group(one) for one in members]
    for number, (ranks, group) in enumerate(zip(members, groups, strict=True)):
        if rank not in ranks:
            continue
        mine = tensor(rank, seed=number)
        dist.all_reduce(mine, group=group)
        same(mine, sum(values(one, seed=number) for one in ranks))
        dist.broadcast(mine, sorted(ranks)[-1], group=group)
        assert len(ranks) == 1 or group.process_group.size() == len(ranks)


@checked
def bytes_are_counted(rank, size):
    import paddle.distributed as dist

    group = dist.new_group(list(range(size))).process_group
    group.all_reduce(tensor(rank, (1 << 15,), "float64"))  # 256 KiB: every piece goes out once and comes back once
    assert group.bytes_sent == 2 * (size - 1) * (1 << 18) // size
    group.broadcast(tensor(rank, (10,)), 0)
    assert group.bytes_sent == 2 * (size - 1) * (1 << 18) // size + (40 * (size - 1) if rank == 0 else 0)


@checked
def work_goes_on_while_a_peer_computes(rank, size):
    """A send returns although nobody receives yet."""
    import paddle
    import paddle.distributed as dist

    done = threading.Event()
    if rank == 0:
        sender = threading.Thread(target=lambda: (dist.send(paddle.ones([1 << 20]), 1), done.set()))
        sender.start()
        assert done.wait(20), "a send waits for its receiver"
        sender.join()
    dist.barrier()
    if rank == 1:
        mine = paddle.zeros([1 << 20])
        dist.recv(mine, 0)
        assert float(mine.sum()) == 1 << 20


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
