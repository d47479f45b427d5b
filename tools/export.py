"""Exports a model folder for Paddle Inference: programs, weights, tokenizer, a model card, and what runs them.

    python tools/export.py runs/pydoc/model exported
    python exported/run.py --prompt "The following "

The new folder needs nothing but paddlepaddle: it carries the sources that run it. `--ops native` exports around the
compiled operators instead, which are several times faster and have to be installed where the folder runs
(pip install ./custom_ops).

A member of the elastic family, smaller and faster:

    python tools/export.py runs/elastic/model small --num-layers 2 --top-k-experts 1

Any other cut is made by tools/extract.py before. What is exported, and what is not yet: docs/guides/export.md.
"""

import argparse
import sys
from pathlib import Path

from ernie5.errors import exit_cleanly


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", type=Path, help="model folder")
    parser.add_argument(
        "output", metavar="NEW_DIR", type=Path, help="new folder; one that holds something is left alone"
    )
    parser.add_argument(
        "--ops",
        choices=("none", "native"),
        default="none",
        help="native: compiled operators (default %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="bfloat16: half the weights to read, rounded; needs --ops native. int8: files of a quarter, float32 once "
        "they are loaded (default %(default)s)",
    )
    parser.add_argument("--num-layers", type=int, default=0, metavar="N", help="elastic depth: layers to keep; 0: all")
    parser.add_argument(
        "--top-k-experts", type=int, default=0, metavar="K", help="elastic sparsity: experts a token; 0: as trained"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from ernie5.config.schema import MemberConfig
    from ernie5.ops import runtime

    runtime.start_paddle()
    from tqdm import tqdm

    from ernie5.config.rules import check_member
    from ernie5.elastic.sampler import member_subnet
    from ernie5.inference.export.export_folder import export_folder
    from ernie5.model.folder import from_pretrained

    model = from_pretrained(arguments.model)
    member = MemberConfig(name="this export", num_layers=arguments.num_layers, top_k=arguments.top_k_experts)
    check_member(member, model.config)
    with tqdm(desc="parts", unit="", disable=not sys.stderr.isatty()) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        subnet = member_subnet(model.config, member)
        export_folder(model, arguments.model, arguments.output, arguments.ops, subnet, arguments.dtype, progress)
    sys.stderr.write(f"exported: {arguments.output} (python {arguments.output / 'run.py'} --help)\n")


if __name__ == "__main__":
    exit_cleanly(main)
