"""Prints a configuration as it resolves, and the parameters of its model. Builds nothing and loads no Paddle.

python tools/show_config.py -c configs/run/pydoc.yaml -o model.moe.num_experts=32
python tools/show_config.py -c configs/model/full_2p4t.yaml
"""

import argparse
import os
import sys

from ernie5.config.load import dump, load_config_or_model
from ernie5.config.schema import Config, ModelConfig
from ernie5.errors import exit_cleanly
from ernie5.planning.parameters import ParameterCount, count_parameters, flops_per_token

PARTS = (
    ("embedding", "token embedding"),
    ("lm_head", "output head"),
    ("attention", "attention"),
    ("router", "routers"),
    ("routed_experts", "routed experts"),
    ("shared_experts", "shared experts"),
    ("dense_mlp", "dense MLPs"),
    ("norms", "norms"),
    ("mtp", "prediction block"),
    ("vision_cnn", "vision encoder (frozen)"),
    ("vision_understanding", "vision understanding"),
    ("vision_generation", "vision generation"),
    ("audio", "audio"),
)
BARE_MODEL_SEQ_LEN = 8192  # of the FLOPs line when there is no stage to take it from: the report's first stage


def main() -> None:
    args = parse_args()
    config = load_config_or_model(args.config, args.opt)
    model = config.model if isinstance(config, Config) else config
    seq_len = config.stages[0].max_seq_len if isinstance(config, Config) else BARE_MODEL_SEQ_LEN
    text = "\n".join([dump(config), *table(model, count_parameters(model), seq_len)])
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-c", "--config", required=True, metavar="FILE", help="a run (configs/run) or a bare model (configs/model)"
    )
    parser.add_argument(
        "-o",
        "--opt",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="sets one value, such as train.seed=1 or stages.0.num_tokens=1000; may be repeated",
    )
    return parser.parse_args()


def table(model: ModelConfig, count: ParameterCount, seq_len: int) -> list[str]:
    """The lines of the parameter table: parts with their share of the total, then the sums."""
    lines = [f"# parameters of {model.name}"]
    for field, label in PARTS:
        size = getattr(count, field)
        if size:
            lines.append(f"{label:<26}{size:>22,}{size / count.total:>9.2%}")
    rows = (
        ("total", count.total),
        ("backbone", count.backbone),
        ("  without embeddings", count.backbone_excluding_embeddings),
        ("active per token", count.active),
        ("  without embeddings", count.active_excluding_embeddings),
    )
    lines += ["-" * 57, *(f"{label:<26}{size:>22,}{short(size):>9}" for label, size in rows)]
    lines.append(f"{'active share':<26}{count.share:>22.2%}")
    flops = flops_per_token(model, seq_len)
    lines.append(f"{'forward FLOPs per token':<26}{flops:>22,.0f}{short(flops):>9}  at {seq_len} tokens a row")
    return lines


def short(number: float) -> str:
    """1234567 -> `1.23M`."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= scale:
            return f"{number / scale:.2f}{unit}"
    return f"{number:.0f}"


if __name__ == "__main__":
    exit_cleanly(main)
