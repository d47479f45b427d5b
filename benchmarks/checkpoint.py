"""Saving and loading a training state: this project's checkpoint beside paddle.save and paddle.load + set_value.

    python benchmarks/checkpoint.py --mb 500 --rounds 7 --dir runs/checkpoint_bench

Every round runs each way once, in turn, so that a busy moment of the machine hits all of them. A load ends with the
values in the tensors of a model; the files are in the page cache. Both saves end with the data on the disk (fsync).
Prints one JSON object: GB/s of wall time (median, best), CPU seconds a GB (median, all threads together; what other
programs on the machine disturb least), and the ratios of wall and CPU time in the same round (median, quartiles).
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

from ernie5.model.weights import assign, load_tensors, num_workers
from ernie5.train.checkpoint import CheckpointStore, open_checkpoint

PAIRS = [
    ("save", "paddle.save"),
    ("verify and load", "paddle.load and set_value"),
    ("load", "paddle.load and set_value"),
]
TENSORS_PER_GROUP = 27  # a third of the state is the model, two thirds are its moments


def make_state(num_bytes: int) -> tuple[dict[str, paddle.Tensor], dict[str, paddle.Tensor]]:
    rows = num_bytes // 4 // 256 // (3 * TENSORS_PER_GROUP)
    random = np.random.default_rng(0)

    def tensors(names: list[str]) -> dict[str, paddle.Tensor]:
        return {name: paddle.to_tensor(random.standard_normal((rows, 256), np.float32)) for name in names}

    model = tensors([f"layers.{i}.weight" for i in range(TENSORS_PER_GROUP)])
    return model, tensors([f"{name}/{moment}" for name in model for moment in ("moment1", "moment2")])


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def ways(folder: Path, model: dict, optimizer: dict) -> dict[str, Callable[[], None]]:
    store = CheckpointStore(folder / "ours", keep=1)
    pickled = [(model, folder / "model.pdparams"), (optimizer, folder / "model.pdopt")]
    step = 0

    def save_ours() -> None:
        nonlocal step
        step += 1
        store.save(step=step, model_tensors=model, optimizer_tensors=optimizer, state={}, config_text="")

    def save_paddle() -> None:
        for tensors, path in pickled:
            paddle.save(tensors, str(path))
            sync(path)

    def load_ours() -> None:
        found = open_checkpoint(store.newest_first()[0])
        assign(model.items(), found.model_tensors(), found.path)
        assign(optimizer.items(), found.optimizer_tensors(), found.path)

    def load_ours_unverified() -> None:
        path = store.newest_first()[0]
        assign(model.items(), load_tensors(path, "model"), path)
        assign(optimizer.items(), load_tensors(path, "optimizer"), path)

    def load_paddle() -> None:
        for tensors, path in pickled:
            for name, value in paddle.load(str(path)).items():
                tensors[name].set_value(value)

    return {
        "save": save_ours,
        "paddle.save": save_paddle,
        "verify and load": load_ours,
        "load": load_ours_unverified,
        "paddle.load and set_value": load_paddle,
    }


Seconds = dict[str, list[tuple[float, float]]]  # way -> (wall, CPU) of every round


def measure(folder: Path, megabytes: int, rounds: int) -> tuple[float, Seconds]:
    """Size of the state in GB, and the seconds of each way; the first round is not counted."""
    model, optimizer = make_state(megabytes * 10**6)
    seconds: Seconds = {}
    runs = ways(folder, model, optimizer)
    for _ in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            seconds.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))
    gigabytes = sum(tensor.size * 4 for tensor in (*model.values(), *optimizer.values())) / 1e9
    return gigabytes, {name: times[1:] for name, times in seconds.items()}


def ratios(seconds: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """How many times less `ours` takes than `theirs` in the same round."""
    paired = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    low, median, high = statistics.quantiles(paired, n=4)
    return {"p25": round(low, 2), "median": round(median, 2), "p75": round(high, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=500, help="size of the state in 10^6 bytes")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one that is not")
    parser.add_argument("--dir", type=Path, default=Path("checkpoint_bench"), help="made, and removed at the end")
    options = parser.parse_args()
    options.dir.mkdir(parents=True)
    try:
        gigabytes, seconds = measure(options.dir, options.mb, options.rounds)
    finally:
        shutil.rmtree(options.dir)

    walls = {name: [wall for wall, _ in pairs] for name, pairs in seconds.items()}
    cpus = {name: [cpu for _, cpu in pairs] for name, pairs in seconds.items()}
    result = {
        "gb": round(gigabytes, 3),
        "threads": num_workers(),
        "gb_per_s_median": {name: round(gigabytes / statistics.median(times), 2) for name, times in walls.items()},
        "gb_per_s_best": {name: round(gigabytes / min(times), 2) for name, times in walls.items()},
        "cpu_s_per_gb": {name: round(statistics.median(times) / gigabytes, 2) for name, times in cpus.items()},
        "faster_wall": {f"{ours} : {theirs}": ratios(walls, ours, theirs) for ours, theirs in PAIRS},
        "faster_cpu": {f"{ours} : {theirs}": ratios(cpus, ours, theirs) for ours, theirs in PAIRS},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
