"""Trains the judge of spoken digits, which tools/evaluate.py scores speech with: about two minutes of one core.

python tools/speech_judge.py --world data/digits
python tools/speech_judge.py --world data/digits --recordings fsdd/ --output runs/judge_of_recordings

It learns from the voices and recordings of the world that are the judge's own, which no tokenizer and no model hears,
and from the judge's share of a folder of recorded digits.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from ernie5.errors import UserError, exit_cleanly


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("data/digits"), metavar="DIR", help="default %(default)s")
    parser.add_argument(
        "--recordings", default="", metavar="DIR", help="Free Spoken Digit Dataset, for a world made without it"
    )
    parser.add_argument(
        "--hold-out", default="", metavar="SPEAKER", help="of the recordings, not learned (default: first by name)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: speech_judge in the world")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="of training (default: as many as it takes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.steps < 0:
        raise UserError(f"--steps is {arguments.steps}: give a number above 0, or leave it out")
    from ernie5.ops.runtime import start_paddle

    start_paddle(arguments.threads)
    from ernie5.analysis.spoken_digits import TRAINING, SpeechJudge, held_out_clips, spoken_digit_error
    from ernie5.analysis.utterances import judge_world, read_sounds

    clips = judge_world(arguments.world, arguments.recordings, arguments.hold_out)
    config = replace(TRAINING, steps=arguments.steps or TRAINING.steps)
    judge = SpeechJudge.train(clips, arguments.seed, config)
    print(judge.save(arguments.output or arguments.world / "speech_judge"))
    for source, clips in held_out_clips(read_sounds(arguments.world), arguments.world).items():
        error = spoken_digit_error(judge, [clip for clip, _ in clips], [digits for _, digits in clips])
        print(f"held-out {source} voices: {error.digits:.1%} of digits wrong, {error.clips} clips")


if __name__ == "__main__":
    exit_cleanly(main)
