"""Trains a model from a run file and leaves a run folder: checkpoints, curves, samples, report.html.

    python tools/train.py -c configs/run/pydoc.yaml
    python tools/train.py -c configs/run/corpus.yaml -o data.train.0.path=my.jsonl -o train.output_dir=runs/mine
    python tools/train.py -c configs/run/pydoc.yaml --resume auto
    python tools/train.py -c configs/run/digits.yaml --nproc_per_node 2
    python tools/train.py -c configs/run/digits.yaml --nproc_per_node 4 --max_restarts 5 --min_nproc 2

SIGTERM or Ctrl-C saves a checkpoint after the running step and exits with 0. A wrong setting exits with 2, a fault
with 1.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:
    from ernie5.config.schema import Config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="run file, see configs/run/")
    parser.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override: -o stages.0.num_tokens=50000"
    )
    parser.add_argument(
        "--resume", default="", metavar="auto|DIR", help="go on from the newest good checkpoint of the run, or from DIR"
    )
    parser.add_argument(
        "--nproc_per_node",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine that share each batch (default 1); their logs: OUTPUT_DIR/log/",
    )
    parser.add_argument(
        "--max_restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again, at most N times, when a process was killed or a fault ended the run (default 0): from the "
        "newest good checkpoint, or from the beginning where there is none. A wrong setting, SIGTERM and Ctrl-C end it "
        "for good",
    )
    parser.add_argument(
        "--min_nproc",
        type=int,
        metavar="M",
        help="after two failures in a row without a new checkpoint, go on with fewer processes, but at least M, as the "
        "batch and `parallel:` allow; checkpoints load in any number (default: always --nproc_per_node)",
    )
    arguments = parser.parse_args()
    _check(arguments)
    from ernie5.config.load import load_config

    config = load_config(arguments.config, arguments.opt)
    if arguments.max_restarts:
        return supervise(config, arguments)
    from ernie5.parallel.processes import other_processes
    from ernie5.parallel.supervisor import reporting

    with reporting(), other_processes(arguments.nproc_per_node, Path(config.train.output_dir) / "log"):
        train(config, arguments.resume)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    count, least = arguments.nproc_per_node, arguments.min_nproc
    if count < 1:
        raise UserError(f"--nproc_per_node is {count}: give 1 or more")
    if arguments.max_restarts < 0:
        raise UserError(f"--max_restarts is {arguments.max_restarts}: give 0 or more")
    if least is not None and not 1 <= least <= count:
        raise UserError(f"--min_nproc is {least}: give 1 to {count}, which is --nproc_per_node")
    if arguments.max_restarts and "PADDLE_TRAINERS_NUM" in os.environ:
        raise UserError(
            "--max_restarts: a launcher started this process, and one alone cannot start again: leave it out"
        )


def supervise(config: "Config", arguments: argparse.Namespace) -> int:
    """Runs this command without --max_restarts, again and again; its exit status."""
    from ernie5.parallel.mesh import make_mesh
    from ernie5.parallel.supervisor import supervise
    from ernie5.train.schedule import check_batches

    def fits(count: int) -> bool:
        try:
            check_batches(config, make_mesh(count, config.parallel))
        except UserError:
            return False
        return True

    return supervise(
        Path(config.train.output_dir),
        arguments.nproc_per_node,
        max_restarts=arguments.max_restarts,
        min_processes=arguments.min_nproc or arguments.nproc_per_node,
        fits=fits,
    )


def train(config: "Config", resume: str) -> None:
    from ernie5.ops import runtime

    runtime.start_paddle(config.train.threads)
    runtime.configure(config.ops)
    from ernie5.inference.show import show
    from ernie5.train.run import run

    logging.getLogger("ernie5").setLevel(logging.INFO)
    run(config, resume, show)


if __name__ == "__main__":
    exit_cleanly(main)
