"""Brings ERNIE 4.5's open text models into a model folder, and a model folder back into that form.

From a folder with config.json and safetensors, sharded or not, in the layout of transformers or in Paddle's (downloaded
by hand: this tool takes nothing from the net), for instance that of ERNIE-4.5-21B-A3B:

    python tools/convert.py ERNIE-4.5-21B-A3B-Base-PT runs/ernie45

The weights keep their dtype and their bits; tensors pass one by one, so that a large model needs little memory. The new
folder has model.yaml, which a run file includes in the place of its model; with `train: {init_from: runs/ernie45}` the
run, elastic or not, begins with these weights. ERNIE 4.5's own tokenizer is kept in ernie45/ for the way back, but not
used: ernie5 reads text with its own kind of tokenizer, whose ids are others (docs/guides/weights.md).

And back, from a folder whose model has no vision, no audio and no prediction block:

    python tools/convert.py runs/elastic/model ernie45-elastic
    python tools/convert.py runs/elastic/model ernie45-elastic --layout paddle

What a model has and the other side does not is refused with its name; nothing is unpickled, and no code of a checkpoint
is run.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from ernie5.config.schema import ModelConfig

LAYOUTS = ("transformers", "paddle")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="DIR", help="folder of ERNIE 4.5, or of a model of ours")
    parser.add_argument("output", metavar="NEW_DIR", help="new folder; one that holds something is left alone")
    parser.add_argument("--name", default="", help="of a model that comes in (default: that of the new folder)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default=LAYOUTS[0], help="of a model that goes out (default %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from ernie5.ops.runtime import start_paddle

    start_paddle()
    from ernie5.model.ernie45_folder import model_type, save_as_ernie45
    from ernie5.model.folder import MODEL_TYPE

    if model_type(arguments.source) == MODEL_TYPE:
        say(save_as_ernie45(arguments.source, arguments.output, arguments.layout))
        print(f"{arguments.output}: as {arguments.layout} has ERNIE 4.5")
    else:
        bring_in(arguments)


def bring_in(arguments: argparse.Namespace) -> None:
    from ernie5.model.ernie45_folder import KEPT, read_checkpoint, save_checkpoint

    checkpoint = read_checkpoint(arguments.source, arguments.name or Path(arguments.output).resolve().name)
    save_checkpoint(checkpoint, arguments.source, arguments.output)
    say(checkpoint.config)
    if checkpoint.left_out:
        print(f"left out: {len(checkpoint.left_out)} tensors of its prediction block, which is dense, unlike ours")
    if (Path(arguments.output) / KEPT / "tokenizer.model").exists():
        print(f"its tokenizer is kept in {KEPT}/ and not used: a run trains one of its own, with other ids")
    print(f"{arguments.output}: was in the layout of {checkpoint.layout}")


def say(config: "ModelConfig") -> None:
    from ernie5.planning.parameters import count_parameters

    count = count_parameters(config)
    print(f"{config.name}: {count.total:,} parameters, {count.active:,} active")


if __name__ == "__main__":
    exit_cleanly(main)
