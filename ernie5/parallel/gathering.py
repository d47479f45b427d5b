"""All of a model on the first process."""

import pickle
from collections.abc import Mapping

import numpy as np
import paddle
import paddle.distributed as dist

from ernie5.parallel.data_parallel import Ranks
from ernie5.parallel.pieces import Cut


def gather_to_first(ranks: Ranks, tensors: Mapping, cuts: Mapping[str, Cut]) -> dict[str, np.ndarray] | None:
    own = {name: (tensor.numpy(), cuts.get(name)) for name, tensor in tensors.items()}
    if not ranks.is_first:
        data = np.frombuffer(pickle.dumps(own), np.uint8)
        dist.send(paddle.to_tensor(np.array([len(data)])), 0)
        dist.send(paddle.to_tensor(data), 0)
        return None
    pieces: dict[str, dict[int, np.ndarray]] = {}
    axes: dict[str, int] = {}
    for other in range(ranks.size):
        found = own
        if other:
            length = paddle.zeros([1], "int64")
            dist.recv(length, other)
            data = paddle.zeros([int(length[0])], "uint8")
            dist.recv(data, other)
            found = pickle.loads(data.numpy().tobytes())
        for name, (array, cut) in found.items():
            pieces.setdefault(name, {})[cut.place if cut else 0] = array
            axes[name] = cut.axis if cut else 0
    return {
        name: np.concatenate([parts[i] for i in range(len(parts))], axes[name]) if len(parts) > 1 else parts[0]
        for name, parts in pieces.items()
    }
