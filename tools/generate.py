"""Goes on from a prompt with a trained model: in text, in pictures, in films.

Text goes on from the prompt:

    python tools/generate.py runs/pydoc/model --prompt 'The "for" statement'
    python tools/generate.py runs/pydoc/model --prompt "A class" --temperature 0 --top-k-experts 2

Pictures and films are looked at before the prompt is read, in the order given, or where they are named in it:

    python tools/generate.py runs/digits/model --image digit.png --prompt "What digit is this?" --temperature 0
    python tools/generate.py runs/digits/model --prompt "<image:a.png> <image:b.png> Which is larger?"

Something is drawn behind the prompt, which may itself hold pictures and films:

    python tools/generate.py runs/digits/model --prompt "Draw a seven." --draw image --output seven.png --enlarge 8
    python tools/generate.py runs/digits/model --prompt "A 3 moving left, fast." --draw video --num-frames 5 \\
        --size 16x16 --guidance 1,3 --output three.gif

Without --draw the model goes on as it likes: text, and media where it begins one, written to --output with numbers.

The folder is `model/` of a run, or any other that holds config.json, the weights, the tokenizer and, to draw,
`vision_tokenizer/`.
"""

import argparse
import math
import re
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.config.schema import GenerationConfig, ResolutionConfig, VisionConfig, VisualSamplingConfig
    from ernie5.data.sample import Segment

INLINE = re.compile(r"<(image|video):([^<>]*)>")
MAX_ENLARGE = 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="DIR", help="model folder")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    parser.add_argument("--num-layers", type=int, default=0, help="elastic depth: layers to run; 0: all")
    parser.add_argument("--top-k-experts", type=int, default=0, help="elastic sparsity: experts a token; 0: as trained")
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("--prompt", default="", help="beginning of the text; empty: the start of a document. "
                        "<image:FILE> and <video:FILE> in it stand for media")  # fmt: skip
    for kind in ("image", "video"):
        prompt.add_argument(f"--{kind}", dest="media", metavar="FILE", action="append", default=[],
                            type=lambda path, kind=kind: (kind, path),
                            help=f"{kind} to look at before the prompt; may be given several times")  # fmt: skip
    prompt.add_argument("--fps", type=float, default=4.0, metavar="N",
                        help="frames a second at which films are seen and written (default %(default)s)")  # fmt: skip
    text = parser.add_argument_group("text")
    text.add_argument("--max-new-tokens", type=int, default=128)
    text.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
    text.add_argument("--top-p", type=float, default=0.95,
                      help="draw from the likeliest tokens of this joint probability")  # fmt: skip
    text.add_argument("--top-k", type=int, default=0, help="draw from this many likeliest tokens; 0: no limit")
    drawing = parser.add_argument_group("drawing")
    drawing.add_argument("--draw", choices=("image", "video"), help="draw instead of going on in text")
    drawing.add_argument("--output", metavar="FILE", help=".png, .gif, .mp4 or .webp, for what is drawn")
    drawing.add_argument(
        "--size", type=_size, metavar="WxH", help="pixels, one of the model's sizes (default: its first)"
    )
    drawing.add_argument(
        "--num-frames", type=int, metavar="N", help="of a film (default: 5, or as the tokenizer makes them)"
    )
    drawing.add_argument("--enlarge", type=int, default=1, metavar="N", help="write every pixel as N x N")
    drawing.add_argument("--guidance", type=_guidance, default=(2.0, 2.0), metavar="A[,B]",
                         help="how much the prompt counts: 1 as learned, more is nearer to it and less varied; "
                         "B at the finest scale (default 2)")  # fmt: skip
    drawing.add_argument("--bit-temperature", type=float, default=1.0,
                         help="of the bits of a picture; 0: always the likelier value")  # fmt: skip
    drawing.add_argument("--bit-top-p", type=float, default=1.0,
                         help="a bit whose likelier value has this probability takes it")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    check_numbers(arguments)
    check_output(arguments)
    from ernie5.config.schema import MemberConfig, OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle()
    runtime.configure(OpsConfig())
    from ernie5.config.rules import check_member
    from ernie5.elastic.sampler import member_subnet
    from ernie5.model.folder import from_pretrained
    from ernie5.tokenizers.text import TextTokenizer

    model, tokenizer = from_pretrained(arguments.model), TextTokenizer.from_pretrained(arguments.model)
    member = MemberConfig(name="this run", num_layers=arguments.num_layers, top_k=arguments.top_k_experts)
    check_member(member, model.config)
    subnet = member_subnet(model.config, member)
    if arguments.draw:
        draw_one(arguments, model, tokenizer, subnet)
    else:
        go_on(arguments, model, tokenizer, subnet)


def check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.max_new_tokens < 1 or min(arguments.top_k, arguments.seed) < 0:
        raise UserError("--max-new-tokens must be 1 or more, --top-k and --seed 0 or more")
    if not 0 <= arguments.temperature < math.inf or not 0 < arguments.top_p <= 1:
        raise UserError("--temperature must be a number from 0 on, --top-p above 0 and at most 1")
    if not 0 <= arguments.bit_temperature < math.inf or not 0 < arguments.bit_top_p <= 1:
        raise UserError("--bit-temperature must be a number from 0 on, --bit-top-p above 0 and at most 1")
    if not 0 < arguments.fps < math.inf or not 1 <= arguments.enlarge <= MAX_ENLARGE:
        raise UserError(f"--fps must be a number above 0, --enlarge from 1 to {MAX_ENLARGE}")
    if arguments.num_frames is not None and arguments.draw == "image":
        raise UserError("--num-frames is of a film: leave it out, or draw one with --draw video")
    if arguments.num_frames is not None and arguments.num_frames < 2:
        raise UserError(f"--num-frames is {arguments.num_frames}: a film has 2 or more; for a picture --draw image")


def check_output(arguments: argparse.Namespace) -> None:
    """Refuses a wrong name before the model is loaded."""
    if arguments.draw and not arguments.output:
        raise UserError(f"--draw {arguments.draw} needs --output FILE, to which it is written")
    if arguments.output:
        from ernie5.inference.media_files import check_name

        check_name(arguments.output, (arguments.num_frames or 2) if arguments.draw == "video" else 1, arguments.fps)


def draw_one(arguments: argparse.Namespace, model, tokenizer, subnet) -> None:
    from ernie5.inference.draw import draw

    resolution = find_resolution(arguments, model.config.vision)
    vision_tokenizer = load_vision_tokenizer(arguments.model, model.config.vision)
    num_frames = film_length(arguments, model.config.vision) if arguments.draw == "video" else 1
    (frames,) = draw(
        model, tokenizer, vision_tokenizer, [segments(arguments)], resolution, num_frames, sampling(arguments),
        arguments.seed, subnet,
    )  # fmt: skip
    write(arguments, arguments.output, frames)


def go_on(arguments: argparse.Namespace, model, tokenizer, subnet) -> None:
    """Writes text as it comes."""
    from ernie5.inference.converse import Canvas, converse
    from ernie5.model.folder import VISION_TOKENIZER

    canvas = None
    if model.config.vision is not None and (Path(arguments.model) / VISION_TOKENIZER).is_dir():
        vision_tokenizer = load_vision_tokenizer(arguments.model, model.config.vision)
        resolution = find_resolution(arguments, model.config.vision)
        canvas = Canvas(vision_tokenizer, resolution, film_length(arguments, model.config.vision))
    pieces = converse(model, tokenizer, segments(arguments), text_sampling(arguments), canvas, arguments.seed, subnet)
    first = next(pieces)  # once the prompt has been read; a mistake in it is told without an echo
    sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(arguments.prompt)
    number = 0
    for piece in chain([first], pieces):
        if isinstance(piece, str):
            sys.stdout.write(piece)
            sys.stdout.flush()
        elif arguments.output:
            number += 1
            write(arguments, numbered(arguments.output, number, len(piece)), piece)
        else:
            sys.stderr.write("\n(something was drawn here: give --output FILE to keep it)\n")
    sys.stdout.write("\n")


def segments(arguments: argparse.Namespace) -> list["Segment"]:
    """Media of the options, then the prompt with the media named in it."""
    from ernie5.data.sample import Image, Text, Video

    def medium(kind: str, path: str) -> "Segment":
        if not path:
            raise UserError(f"--{kind} and <{kind}:...> need a file's name, and one is empty: name the file")
        return Image(path, "understand") if kind == "image" else Video(path, arguments.fps, "understand")

    found = [medium(*named) for named in arguments.media]
    texts = INLINE.split(arguments.prompt)  # text, kind, path, text, kind, path, ..., text
    for text, kind, path in zip(texts[::3], [*texts[1::3], ""], [*texts[2::3], ""], strict=True):
        found += [Text(text, loss=False)] if text else []
        found += [medium(kind, path)] if kind else []
    return found


def find_resolution(arguments: argparse.Namespace, vision: "VisionConfig | None") -> "ResolutionConfig":
    """The model's resolution of the size asked for."""
    if vision is None:
        raise UserError(f"{arguments.model} is a model of text alone: to draw, take one with vision")
    if arguments.size is None:
        return vision.resolutions[0]
    for resolution in vision.resolutions:
        if (resolution.width, resolution.height) == arguments.size:
            return resolution
    sizes = ", ".join(f"{resolution.width}x{resolution.height}" for resolution in vision.resolutions)
    raise UserError(f"--size {arguments.size[0]}x{arguments.size[1]}: this model draws {sizes}")


def film_length(arguments: argparse.Namespace, vision: "VisionConfig") -> int:
    """Frames of a film: those asked for, or five or the next number that the tokenizer makes."""
    stride = vision.encoder.temporal_stride
    return arguments.num_frames or 1 + -(-4 // stride) * stride


def load_vision_tokenizer(folder: str, vision: "VisionConfig"):
    from ernie5.model.folder import VISION_TOKENIZER
    from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
    from ernie5.train.vision_tokenizers import check_tokenizer

    tokenizer = VisionTokenizer.from_pretrained(Path(folder) / VISION_TOKENIZER)
    check_tokenizer(tokenizer, vision, Path(folder) / VISION_TOKENIZER)
    return tokenizer


def text_sampling(arguments: argparse.Namespace) -> "GenerationConfig":
    from ernie5.config.schema import GenerationConfig

    return GenerationConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        vision=sampling(arguments),
    )


def sampling(arguments: argparse.Namespace) -> "VisualSamplingConfig":
    from ernie5.config.schema import VisualSamplingConfig

    start, end = arguments.guidance
    return VisualSamplingConfig(
        temperature=arguments.bit_temperature, top_p=arguments.bit_top_p, guidance_start=start, guidance_end=end
    )


def numbered(output: str, number: int, num_frames: int) -> str:
    """`a.png` -> `a_1.png`, or `a_1.gif` for a film, which no PNG holds."""
    path = Path(output)
    ending = ".gif" if num_frames > 1 and path.suffix.lower() == ".png" else path.suffix
    return str(path.with_name(f"{path.stem}_{number}{ending}"))


def write(arguments: argparse.Namespace, path: str, frames: "np.ndarray") -> None:
    from ernie5.inference.media_files import enlarge, save_media

    save_media(path, enlarge(frames, arguments.enlarge), arguments.fps)
    sys.stderr.write(f"drawn: {path}\n")


def _size(text: str) -> tuple[int, int]:
    """Width and height."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give width and height in pixels, such as 32x16")
    return int(match[1]), int(match[2])


def _guidance(text: str) -> tuple[float, float]:
    """At the first and at the last scale."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no guidance: give a number from 0 on, such as 2, or two: 1,3")
    return numbers[0], numbers[-1]


if __name__ == "__main__":
    exit_cleanly(main)
