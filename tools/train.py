"""Trains a model from a run file and leaves a run folder: checkpoints, curves, samples, report.html.

    python tools/train.py -c configs/run/pydoc.yaml
    python tools/train.py -c configs/run/corpus.yaml -o data.train.0.path=my.jsonl -o train.output_dir=runs/mine
    python tools/train.py -c configs/run/pydoc.yaml --resume auto

SIGTERM or Ctrl-C saves a checkpoint after the running step and exits with 0. A wrong setting exits with 2, a fault
with 1.
"""

import argparse
import logging

from ernie5.errors import exit_cleanly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="run file, see configs/run/")
    parser.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override: -o stages.0.num_tokens=50000"
    )
    parser.add_argument(
        "--resume", default="", metavar="auto|DIR", help="go on from the newest good checkpoint of the run, or from DIR"
    )
    arguments = parser.parse_args()
    from ernie5.config.load import load_config
    from ernie5.ops import runtime

    config = load_config(arguments.config, arguments.opt)
    runtime.start_paddle(config.train.threads)
    runtime.configure(config.ops)
    from ernie5.inference.show import show
    from ernie5.train.run import run

    logging.getLogger("ernie5").setLevel(logging.INFO)
    run(config, arguments.resume, show)


if __name__ == "__main__":
    exit_cleanly(main)
