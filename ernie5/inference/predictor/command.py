"""The command line of an exported folder, its `run.py`."""

import argparse
import sys
from pathlib import Path

from ernie5.errors import exit_cleanly


def main(folder: Path) -> None:
    """Writes what the model says behind a prompt."""
    parser = argparse.ArgumentParser(description=f"Runs the exported model in {folder}.")
    parser.add_argument("--prompt", default="", help="beginning of the text; empty: the start of a document")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely word")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--top-k", type=int, default=0, help="0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of Paddle Inference's products")
    arguments = parser.parse_args()
    exit_cleanly(lambda: _run(folder, arguments))


def _run(folder: Path, arguments: argparse.Namespace) -> None:
    from ernie5.ops import runtime

    runtime.start_paddle(arguments.threads)
    from ernie5.inference.predictor import Predictor

    predictor = Predictor(folder, threads=arguments.threads)
    sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(arguments.prompt)
    config = {name: getattr(arguments, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
    for piece in predictor.stream(arguments.prompt, arguments.seed, **config):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
