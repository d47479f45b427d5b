"""Makes a smaller model folder out of a larger one: some of its layers, some of its experts, a smaller top-k.

A model that was trained elastically (docs/guides/weights.md) is a family: any of its members, taken out, answers as the
full model does under the member's mask, and is trained on from there if that is wanted.

Fewer layers: the outermost ones, or those that are named, counted from 0. Where a model speaks, its top layers read the
codes of sound and have to stay.

    python tools/extract.py runs/elastic/model small --num-layers 2
    python tools/extract.py runs/elastic/model small --layers 0,2-3

Fewer experts, as many in every layer: the first ones, the most used ones, or those that are named, for all layers or
for one (`mtp`: the prediction block).

    python tools/extract.py runs/elastic/model small --num-experts 32
    python tools/extract.py runs/elastic/model small --num-experts 32 --use-of runs/elastic
    python tools/extract.py runs/elastic/model small --num-experts 32 --measure corpus/ --measure notes.jsonl
    python tools/extract.py runs/elastic/model small --experts 0-31 --experts 2:0-15,40-55

A smaller top-k: experts that each token is sent to.

    python tools/extract.py runs/elastic/model small --top-k 2

The new folder has config.json, the weights in their dtype, the tokenizers of the old one, and model.yaml, which a run
file includes in the place of its model; with `train: {init_from: small}` the run then begins with these weights.
"""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.config.schema import ModelConfig
    from ernie5.modality.unified import UnifiedSequence
    from ernie5.model.subnet import Subnet
    from ernie5.train.most_used import Use

MTP = "mtp"  # the prediction block, in --experts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="model folder to take from")
    parser.add_argument("output", metavar="NEW_DIR", help="new folder; one that holds something is left alone")
    parser.add_argument("--name", default="", help="of the new model (default: that of the folder)")
    layers = parser.add_argument_group("layers").add_mutually_exclusive_group()
    layers.add_argument("--num-layers", type=int, default=0, metavar="N", help="this many, the middle left out")
    layers.add_argument("--layers", default="", metavar="IDS", help="these, such as 0,2-5")
    experts = parser.add_argument_group("experts")
    number = experts.add_mutually_exclusive_group()
    number.add_argument(
        "--num-experts", type=int, default=0, metavar="N", help="this many in every layer: the first, or the most used"
    )
    number.add_argument(
        "--experts", action="append", default=[], metavar="[LAYER:]IDS", help="these; may be repeated, for other layers"
    )
    used = experts.add_mutually_exclusive_group()
    used.add_argument("--use-of", metavar="RUN_DIR", help="use as this run measured it when it ended")
    used.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="PATH",
        help="use over this data (file, folder, glob or pydoc), all kinds of tokens alike; may be repeated",
    )
    experts.add_argument(
        "--measure-tokens", type=int, default=100_000, metavar="N", help="at most (default %(default)s)"
    )
    experts.add_argument("--measure-row", type=int, default=512, metavar="N", help="tokens a row (default %(default)s)")
    experts.add_argument("--top-k", type=int, default=0, metavar="K", help="experts a token is sent to")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    check_numbers(arguments)
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle()
    runtime.configure(OpsConfig())
    from ernie5.elastic.extract import extracted_config, extracted_tensors
    from ernie5.model import folder
    from ernie5.model.ernie45_folder import KEPT

    config = folder.read_config(arguments.model)
    tensors = folder.load_weights(arguments.model, config)
    subnet = chosen_subnet(arguments, config)
    target = Path(arguments.output)
    smaller = extracted_config(config, subnet, arguments.name or target.resolve().name)
    tokenizers = folder.tokenizers_in(arguments.model)
    folder.require_new(target)
    folder.save_folder(smaller, extracted_tensors(tensors, config, subnet), target, **tokenizers)
    generation, kept = (Path(arguments.model) / name for name in (folder.GENERATION_FILE, KEPT))
    if generation.exists():
        shutil.copyfile(generation, target / folder.GENERATION_FILE)
    if kept.is_dir():
        shutil.copytree(kept, target / KEPT)
    say(target, config, smaller)


def check_numbers(arguments: argparse.Namespace) -> None:
    """What needs no model."""
    for name in ("num_layers", "num_experts", "top_k"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: give 1 or more")
    for name in ("measure_tokens", "measure_row"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: give 1 or more")
    if (arguments.use_of or arguments.measure) and not arguments.num_experts:
        raise UserError("--use-of and --measure choose the most used experts: give --num-experts as well")


def chosen_subnet(arguments: argparse.Namespace, config: "ModelConfig") -> "Subnet":
    """The member that the options name."""
    from ernie5.config.rules import check_member
    from ernie5.config.schema import MemberConfig
    from ernie5.elastic.extract import routing_rows
    from ernie5.elastic.sampler import member_subnet
    from ernie5.model.subnet import make_subnet

    member = MemberConfig(
        name="to be extracted",
        num_layers=arguments.num_layers,
        num_experts=arguments.num_experts,
        top_k=arguments.top_k,
    )
    check_member(member, config)
    subnet = member_subnet(config, member)
    if arguments.layers:
        layer_ids = ids_in(arguments.layers, "--layers", config.num_hidden_layers)
        subnet = make_subnet(config, layer_ids, subnet.experts_kept(), subnet.top_k)
    rows = routing_rows(config, subnet.layer_ids)
    if arguments.experts:
        return make_subnet(config, subnet.layer_ids, named_experts(arguments.experts, config, rows), subnet.top_k)
    if arguments.use_of or arguments.measure:
        from ernie5.train.most_used import most_used

        kept = most_used(config, rows, use_of_experts(arguments, config), arguments.num_experts)
        return make_subnet(config, subnet.layer_ids, kept, subnet.top_k)
    return subnet


def ids_in(text: str, option: str, count: int) -> list[int]:
    """`0,2-5` -> [0, 2, 3, 4, 5], rising; UserError for what is no list of numbers below `count`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not all(end.strip().isascii() and end.strip().isdigit() for end in (first, last or first)):
            raise UserError(f"{option} {text}: {part!r} is no number and no range; write it like 0,2-5")
        low, high = int(first), int(last or first)
        if not low <= high < count:
            raise UserError(f"{option} {text}: {part!r} must rise and lie between 0 and {count - 1}")
        found |= set(range(low, high + 1))
    return sorted(found)


def named_experts(options: list[str], config: "ModelConfig", rows: list[int]) -> "np.ndarray":
    """bool [layers + mtp blocks, experts] of --experts; a layer's own list wins over the one for all."""
    import numpy as np

    named: dict[int | None, list[int]] = {}
    for option in options:
        where, colon, text = option.rpartition(":")
        row = config.num_hidden_layers if where == MTP else int(where) if where.isascii() and where.isdigit() else None
        if colon and row not in rows:
            known = ", ".join(MTP if row == config.num_hidden_layers else str(row) for row in rows)
            raise UserError(
                f"--experts {option}: {where} is no layer with experts that is kept; name one of {known}, or all, by "
                "IDS alone"
            )
        if row in named:
            raise UserError(f"--experts {option}: these layers have a list already; give one for each")
        named[row] = ids_in(text, "--experts", config.moe.num_experts)
    kept = np.ones([config.num_hidden_layers + config.num_nextn_predict_layers, config.moe.num_experts], bool)
    for row in rows:
        if (chosen := named.get(row, named.get(None))) is not None:
            kept[row] = False
            kept[row, chosen] = True
    return kept


def use_of_experts(arguments: argparse.Namespace, config: "ModelConfig") -> "Use":
    """Of a run's log, or measured."""
    from ernie5.inference.coders import load_coders
    from ernie5.model.folder import from_pretrained
    from ernie5.train.most_used import measured_use, recorded_use

    if arguments.use_of:
        return recorded_use(arguments.use_of, config)
    rows = read_rows(arguments, config)
    return measured_use(from_pretrained(arguments.model), rows, load_coders(arguments.model, config))


def read_rows(arguments: argparse.Namespace, config: "ModelConfig") -> "list[UnifiedSequence]":
    """What --measure names, packed."""
    from ernie5.config.schema import SourceConfig
    from ernie5.data.media_settings import MediaSettings
    from ernie5.data.packing import pack_all
    from ernie5.data.pieces import Pieces
    from ernie5.data.sequence import encode_sample
    from ernie5.data.sources import open_source
    from ernie5.tokenizers.text import TextTokenizer
    from ernie5.train.run import TEXT_BYTES

    tokenizer, media = TextTokenizer.from_pretrained(arguments.model), MediaSettings.uncorrupted(config)
    corpora = [open_source(SourceConfig(name="--measure", path=path)) for path in arguments.measure]
    samples = (sample for corpus in corpora for sample in Pieces(corpus, TEXT_BYTES, 0).samples(skip_bad_lines=False))
    encoded = (encode_sample(sample, tokenizer, media=media) for sample in samples)
    packed = pack_all(encoded, arguments.measure_row, tokenizer.pad_id, arguments.measure_tokens)
    return [row.row for row in packed]


def say(target: Path, config: "ModelConfig", smaller: "ModelConfig") -> None:
    from ernie5.planning.parameters import count_parameters

    before, after = count_parameters(config), count_parameters(smaller)
    for what, old, new in (
        ("layers", config.num_hidden_layers, smaller.num_hidden_layers),
        ("experts", config.moe.num_experts, smaller.moe.num_experts),
        ("top-k", config.moe.num_experts_per_tok, smaller.moe.num_experts_per_tok),
        ("parameters", before.total, after.total),
        ("active", before.active, after.active),
    ):
        print(f"{what:<12}{old:>20,} -> {new:,}")
    print(f"{smaller.name}: {target}")


if __name__ == "__main__":
    exit_cleanly(main)
