"""Makes the digit world: handwritten and spoken digits and films, with questions, answers and requests.

python tools/make_digits.py --output data/digits
python tools/make_digits.py --output data/digits --num-train 30000 --weight animate=300 --show world.png
python tools/make_digits.py --output data/digits --recordings free-spoken-digit-dataset --hold-out theo
"""

import argparse
from pathlib import Path

from ernie5.errors import UserError, exit_cleanly


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the world")
    parser.add_argument("--seed", type=int, default=0, help="of everything but the split of the scans, which is fixed")
    parser.add_argument("--num-train", type=int, default=22_800, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--num-validation", type=int, default=608, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--num-test", type=int, default=3_040, metavar="N", help="samples (default %(default)s)")
    parser.add_argument("--film-frames", type=int, default=5, metavar="N", help="frames a film (default %(default)s)")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="TASK=N",
        help="share of a task among the samples, beside the others' (0 leaves it out); world.json lists all",
    )
    speech = parser.add_argument_group("speech")
    speech.add_argument("--no-speech", action="store_true", help="leave out all tasks with sounds")
    speech.add_argument(
        "--speech-language", nargs="+", default=["en"], metavar="LANG", help="spoken: en de fr es zh ja (default en)"
    )
    speech.add_argument(
        "--renditions", type=int, default=4, metavar="N", help="of a digit by each speaker (default %(default)s)"
    )
    speech.add_argument("--speakers", type=int, default=0, metavar="N", help="in each split at most (default: all)")
    speech.add_argument("--recordings", default="", metavar="DIR", help="folder of the Free Spoken Digit Dataset")
    speech.add_argument(
        "--hold-out", default="", metavar="SPEAKER", help="recorded speaker of the test (default: the first by name)"
    )
    speech.add_argument(
        "--recorded-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the spoken digits, if there are recordings (default %(default)s)",
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

    from ernie5.data.digits.bank import SpeechConfig
    from ernie5.data.digits.world import WorldConfig, check_config, make_world, num_steps

    config = WorldConfig(
        seed=arguments.seed,
        num_train=arguments.num_train,
        num_validation=arguments.num_validation,
        num_test=arguments.num_test,
        film_frames=arguments.film_frames,
        weights=tuple(read_weights(arguments.weight, arguments.no_speech).items()),
        speech=SpeechConfig(
            languages=tuple(arguments.speech_language),
            renditions=arguments.renditions,
            speakers=arguments.speakers,
            recordings=arguments.recordings,
            held_out=arguments.hold_out,
            recorded_share=arguments.recorded_share,
        ),
    )
    check_config(config)
    with tqdm(total=num_steps(config), unit=" items", desc="speaking and drawing", leave=False) as bar:
        about = make_world(arguments.output, config, bar.update)
    for split, counts in about["samples"].items():
        print(f"{split:<12}{sum(counts.values()):>7,}  " + " ".join(f"{task}={n}" for task, n in counts.items()))
    for split, counts in (about["speech"] or {"sounds": {}})["sounds"].items():
        print(f"{split:<12}{sum(counts.values()):>7,} sounds  " + " ".join(f"{name}={n}" for name, n in counts.items()))
    print(f"{arguments.output}: digest {about['digest'][:12]}")
    if arguments.show:
        from ernie5.data.digits.sheet import write_sheet

        write_sheet(arguments.output, arguments.show)


def read_weights(options: list[str], no_speech: bool) -> dict[str, int]:
    """The default weights, without speech if so wished, changed by `TASK=N` options."""
    from ernie5.data.digits.tasks import TASKS

    weights = {name: 0 if no_speech and task.is_spoken else task.weight for name, task in TASKS.items()}
    for option in options:
        task, _, number = option.partition("=")
        if task not in TASKS or not number.isdecimal():
            raise UserError(f"--weight {option}: write TASK=N with N a whole number and TASK one of {', '.join(TASKS)}")
        if no_speech and TASKS[task].is_spoken and int(number):
            raise UserError(f"--weight {option}: {task} is a task with sounds: leave out this, or --no-speech")
        weights[task] = int(number)
    return weights


if __name__ == "__main__":
    exit_cleanly(main)
