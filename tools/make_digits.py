"""Makes the digit world: pictures and films of real handwritten digits, with questions, answers and requests.

python tools/make_digits.py --output data/digits
python tools/make_digits.py --output data/digits --num-train 30000 --weight animate=300 --show world.png
"""

import argparse
from pathlib import Path

from ernie5.errors import UserError, exit_cleanly


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the world")
    parser.add_argument("--seed", type=int, default=0, help="of everything but the split of the scans, which is fixed")
    parser.add_argument("--num-train", type=int, default=15_000, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--num-validation", type=int, default=400, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--num-test", type=int, default=2_000, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--film-frames", type=int, default=5, metavar="N", help="frames a film (default %(default)s)")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="TASK=N",
        help="share of a task among the samples, beside the others' (0 leaves it out); world.json lists all",
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="also draw a sheet of examples, PNG")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: give 0 or more")
    if arguments.show and (arguments.show.suffix.lower() != ".png" or arguments.show.is_dir()):
        raise UserError(f"--show {arguments.show}: name a .png file")
    from tqdm import tqdm

    from ernie5.data.digits.world import WorldConfig, make_world

    config = WorldConfig(
        seed=arguments.seed,
        num_train=arguments.num_train,
        num_validation=arguments.num_validation,
        num_test=arguments.num_test,
        film_frames=arguments.film_frames,
        weights=tuple(read_weights(arguments.weight).items()),
    )
    total = config.num_train + config.num_validation + config.num_test
    with tqdm(total=total, unit=" samples", desc="drawing", leave=False) as bar:
        about = make_world(arguments.output, config, bar.update)
    for split, counts in about["samples"].items():
        print(f"{split:<12}{sum(counts.values()):>7,}  " + " ".join(f"{task}={n}" for task, n in counts.items()))
    print(f"{arguments.output}: digest {about['digest'][:12]}")
    if arguments.show:
        from ernie5.data.digits.sheet import write_sheet

        write_sheet(arguments.output, arguments.show)


def read_weights(options: list[str]) -> dict[str, int]:
    """The default weights, changed by `TASK=N` options."""
    from ernie5.data.digits.tasks import TASKS

    weights = {name: task.weight for name, task in TASKS.items()}
    for option in options:
        task, _, number = option.partition("=")
        if task not in TASKS or not number.isdecimal():
            raise UserError(f"--weight {option}: write TASK=N with N a whole number and TASK one of {', '.join(TASKS)}")
        weights[task] = int(number)
    return weights


if __name__ == "__main__":
    exit_cleanly(main)
