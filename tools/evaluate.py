"""Scores a model folder on the digit world: what it reads, hears, counts, draws, animates and says.

What it makes is judged without the model. The judge of speech (tools/speech_judge.py) is trained where it is missing.

python tools/evaluate.py runs/digits/model --world data/digits
python tools/evaluate.py runs/digits/model --world data/digits --num 40 --json scores.json --sheets runs/digits/drawn
"""

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from collections.abc import Callable

    from ernie5.analysis.digit_world import Answer, Case, Draw, Drawing, Size
    from ernie5.analysis.spoken_digits import SpeechJudge
    from ernie5.analysis.utterances import Say, Utterance

SHEET_ROWS, SHEET_COLUMNS = 10, 12
ANSWER_TOKENS = 8  # every right answer is shorter
LONGEST_SPEECH = 4.0  # seconds; what is asked for is shorter
SHOWN_UTTERANCES = 4  # of a task, in the report


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="model folder, with its tokenizers")
    parser.add_argument("--world", type=Path, default=Path("data/digits"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default %(default)s")
    parser.add_argument("--num", type=int, default=0, metavar="N", help="samples a task (default: all)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of drawing (default %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="of drawing (default %(default)s)")
    parser.add_argument(
        "--guidance",
        type=float,
        nargs=2,
        default=(2.0, 2.0),
        metavar=("START", "END"),
        help="guidance at the first and at the last scale (default 2 2)",
    )
    parser.add_argument(
        "--code-temperature", type=float, default=0.5, metavar="T", help="of speaking (default %(default)s)"
    )
    parser.add_argument("--code-top-p", type=float, default=0.8, metavar="P", help="of speaking (default %(default)s)")
    parser.add_argument(
        "--code-guidance", type=float, default=1.0, metavar="G", help="guidance of speaking (default %(default)s)"
    )
    parser.add_argument(
        "--judge", type=Path, metavar="DIR", help="folder of the judge of speech (default: speech_judge in the world)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as many as cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="also write what was made there: PNG, GIF, WAV")
    parser.add_argument("--run", type=Path, metavar="DIR", help="also show all of it in the report of this run folder")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    check_numbers(arguments)
    check_outputs(arguments)
    from ernie5.ops.runtime import start_paddle

    start_paddle(arguments.threads)  # before anything imports Paddle
    from tqdm import tqdm

    from ernie5.analysis import digit_world
    from ernie5.analysis.digits import Judge
    from ernie5.analysis.utterances import digit_error_rate, score_utterances

    cases = digit_world.load_cases(arguments.world, arguments.split, arguments.num)
    model, asked = open_model(arguments), len(cases)
    cases = [case for case in cases if model.takes(case)]
    if len(cases) < asked:
        print(f"left out: {asked - len(cases)} samples of a modality or a size that the model does not have")
    judge = Judge.train()
    with tqdm(total=len(cases), unit=" samples", desc="scoring", leave=False) as bar:
        scores = digit_world.score_answers(cases, model.answer, arguments.seed, bar.update)
        drawings = digit_world.draw_cases(cases, model.draw, judge, arguments.seed, bar.update)
        utterances = hear(arguments, cases, model.say, bar.update)
    scores |= digit_world.score_drawings(drawings) | score_utterances(utterances)
    variety = digit_world.measure_variety(drawings, judge)
    errors = digit_error_rate(utterances) if utterances else None
    print(digit_world.table(scores, variety))
    if errors is not None:
        print(f"{'digit errors of speech':<30}{errors:>8.1%}{len(utterances):>8}")
    if arguments.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
        record = {"settings": settings, **digit_world.as_record(scores, variety), "digit_errors_of_speech": errors}
        arguments.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if arguments.sheets:
        for path in write_media(arguments.sheets, drawings, utterances).values():
            print(path)
    if arguments.run:
        show_in_report(arguments.run, digit_world.as_page(scores, variety), drawings, utterances)


def check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.num < 0:
        raise UserError(f"--num is {arguments.num}: give a number above 0, or leave it out for all samples")
    if min(arguments.seed, arguments.threads) < 0:
        raise UserError("--seed and --threads must be 0 or more")
    if not 0 <= arguments.temperature < math.inf or not 0 < arguments.top_p <= 1:
        raise UserError("--temperature must be a number from 0 on, --top-p above 0 and at most 1")
    if not 0 <= arguments.code_temperature < math.inf or not 0 < arguments.code_top_p <= 1:
        raise UserError("--code-temperature must be a number from 0 on, --code-top-p above 0 and at most 1")
    if not 0 <= arguments.code_guidance < math.inf:
        raise UserError("--code-guidance must be a number from 0 on")
    if not all(0 <= guidance < math.inf for guidance in arguments.guidance):
        raise UserError("--guidance must be two numbers from 0 on")


def check_outputs(arguments: argparse.Namespace) -> None:
    """Makes the folders to be written to, before anything is scored; an OSError names the one that cannot be."""
    if arguments.json and arguments.json.is_dir():
        raise UserError(f"--json {arguments.json}: is a folder: name a file")
    if arguments.run and not arguments.run.is_dir():
        raise UserError(f"--run {arguments.run}: is no folder: name the folder of a run")
    for folder in (arguments.json and arguments.json.parent, arguments.sheets):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise UserError(f"{folder}: cannot be written to: correct its permissions or name another")


def show_in_report(run_dir: Path, page: dict, drawings: list["Drawing"], utterances: list["Utterance"]) -> None:
    """Scores and sheets in the run folder, and its report.html written anew."""
    from ernie5.train.report import write_report
    from ernie5.train.report_samples import SCORES_FILE

    media = write_media(run_dir / "judged", drawings, utterances)
    pictures = {title: str(path.relative_to(run_dir)) for title, path in media.items()}
    text = json.dumps(page | {"pictures": pictures}, indent=1)
    (run_dir / SCORES_FILE).write_text(text, encoding="utf-8")
    print(write_report(run_dir))


class Contestant(NamedTuple):
    """A model as functions, and what it has."""

    answer: "Answer"
    draw: "Draw"
    say: "Say"
    sees: bool
    hears: bool
    sizes: set[tuple[int, int]]  # height and width of what it draws

    def takes(self, case: "Case") -> bool:
        from ernie5.data.sample import Audio, Text

        media = [segment for segment in case.prompt if not isinstance(segment, Text)]
        needs_ears = bool(case.says) or any(isinstance(segment, Audio) for segment in media)
        needs_eyes = case.size is not None or any(not isinstance(segment, Audio) for segment in media)
        if (needs_ears and not self.hears) or (needs_eyes and not self.sees):
            return False
        return case.size is None or (case.size.height, case.size.width) in self.sizes


def hear(
    arguments: argparse.Namespace, cases: list["Case"], say: "Say", progress: "Callable[[int], object]"
) -> list["Utterance"]:
    """What the model says, judged; nothing where no case asks for speech."""
    from ernie5.analysis.utterances import say_cases

    if not any(case.says for case in cases):
        return []
    return say_cases(cases, say, open_judge(arguments), arguments.seed, progress)


def open_judge(arguments: argparse.Namespace) -> "SpeechJudge":
    """The judge of speech, trained and kept where it is missing."""
    from ernie5.analysis.spoken_digits import SpeechJudge
    from ernie5.analysis.utterances import judge_world

    folder = arguments.judge or arguments.world / "speech_judge"
    if not folder.exists():
        SpeechJudge.train(judge_world(arguments.world)).save(folder)
    return SpeechJudge.load(folder)


def open_model(arguments: argparse.Namespace) -> Contestant:
    import soxr

    from ernie5.analysis.spoken_digits import SAMPLE_RATE
    from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, VisualSamplingConfig
    from ernie5.data.sample import Segment
    from ernie5.inference.ask import answer, draw, speak
    from ernie5.inference.coders import load_coders, require_audio, require_vision
    from ernie5.model.folder import from_pretrained
    from ernie5.tokenizers.text import TextTokenizer

    model = from_pretrained(arguments.model)
    model.eval()
    tokenizer = TextTokenizer.from_pretrained(arguments.model)
    coders = load_coders(arguments.model, model.config)
    resolutions = {}
    if model.config.vision is not None:
        require_vision(coders, model)
        resolutions = {(r.height, r.width): r for r in model.config.vision.resolutions}
    if model.config.audio is not None:
        require_audio(coders, model)
    greedy = GenerationConfig(max_new_tokens=ANSWER_TOKENS, temperature=0.0)
    start, end = arguments.guidance
    sampling = VisualSamplingConfig(
        temperature=arguments.temperature, top_p=arguments.top_p, guidance_start=start, guidance_end=end
    )

    speech = AudioSamplingConfig(
        temperature=arguments.code_temperature,
        top_p=arguments.code_top_p,
        guidance=arguments.code_guidance,
        max_seconds=LONGEST_SPEECH,
    )

    def answer_prompts(prompts: list[list[Segment]], seed: int) -> list[str]:
        return answer(model, tokenizer, prompts, greedy, seed, coders=coders)

    def draw_prompts(prompts: list[list[Segment]], size: "Size", seed: int) -> list:
        resolution = resolutions[size.height, size.width]
        return draw(model, tokenizer, coders, prompts, resolution, size.num_frames, sampling, seed)

    def say_prompts(prompts: list[list[Segment]], seed: int) -> list:
        said = speak(model, tokenizer, coders, prompts, speech, seed)
        return [soxr.resample(samples, model.config.audio.sample_rate, SAMPLE_RATE) for samples in said]

    sees, hears = (tower is not None for tower in (model.config.vision, model.config.audio))
    return Contestant(answer_prompts, draw_prompts, say_prompts, sees, hears, set(resolutions))


def write_media(folder: Path, drawings: list["Drawing"], utterances: list["Utterance"]) -> dict[str, Path]:
    """Sheets of what was drawn and a few sounds of what was said, by their titles."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_sheets(folder, drawings) | write_sounds(folder, utterances)


def write_sheets(folder: Path, drawings: list["Drawing"]) -> dict[str, Path]:
    """What was drawn, a sheet for each task and size: in rows by digit, direction."""
    from ernie5.analysis.contact_sheet import write_contact_sheet
    from ernie5.data.digits.world import FPS

    paths, sheets = {}, {}
    for drawing in drawings:
        sheets.setdefault((drawing.case.task, drawing.case.size), []).append(drawing)
    for (task, size), drawn in sheets.items():
        drawn.sort(key=lambda drawing: (drawing.case.direction, drawing.case.digits))
        chosen = drawn[:: -(-len(drawn) // (SHEET_ROWS * SHEET_COLUMNS))]  # evenly over digits and directions
        name = f"{task}_{size.height}x{size.width}"
        path = folder / f"{name}.{'gif' if size.num_frames > 1 else 'png'}"
        right = [all(drawing.right.values()) for drawing in chosen]
        write_contact_sheet(path, [drawing.frames for drawing in chosen], right, SHEET_COLUMNS, FPS)
        paths[name.replace("_", " ")] = path
    return paths


def write_sounds(folder: Path, utterances: list["Utterance"]) -> dict[str, Path]:
    """A few utterances of each task, whose titles tell what was asked for, and what was heard if that is not it."""
    from ernie5.analysis.spoken_digits import SAMPLE_RATE
    from ernie5.data.sounds import write_sound

    by_task: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_task.setdefault(utterance.case.task, []).append(utterance)
    paths = {}
    for task, said in by_task.items():
        for number, utterance in enumerate(said[:: max(1, len(said) // SHOWN_UTTERANCES)][:SHOWN_UTTERANCES], 1):
            path = folder / f"{task}_{number}.wav"
            write_sound(path, utterance.samples, SAMPLE_RATE)
            heard = "" if utterance.is_right else f", heard as {utterance.heard or 'nothing'}"
            paths[f"{task.replace('_', ' ')} {number}: {utterance.case.says}{heard}"] = path
    return paths


if __name__ == "__main__":
    exit_cleanly(main)
