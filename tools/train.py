"""Trains a model from a run file and leaves a run folder: checkpoints, curves, samples, report.html.

    python tools/train.py -c configs/run/pydoc.yaml
    python tools/train.py -c configs/run/corpus.yaml -o data.train.0.path=my.jsonl -o train.output_dir=runs/mine
    python tools/train.py -c configs/run/pydoc.yaml --resume auto
    python tools/train.py -c configs/run/digits.yaml --nproc_per_node 2

SIGTERM or Ctrl-C saves a checkpoint after the running step and exits with 0. A wrong setting exits with 2, a fault
with 1.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:
    from ernie5.config.schema import Config


def main() -> None:
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
    arguments = parser.parse_args()
    if arguments.nproc_per_node < 1:
        raise UserError(f"--nproc_per_node is {arguments.nproc_per_node}: give 1 or more")
    from ernie5.config.load import load_config
    from ernie5.parallel.processes import other_processes

    config = load_config(arguments.config, arguments.opt)
    with other_processes(arguments.nproc_per_node, Path(config.train.output_dir) / "log"):
        train(config, arguments.resume)


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
