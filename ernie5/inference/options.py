"""What the options of `tools/generate.py` mean, and what is wrong with them, told before Paddle is imported."""

import argparse
import math
import re
from pathlib import Path

from ernie5.config.schema import (
    AudioSamplingConfig,
    GenerationConfig,
    ResolutionConfig,
    VisionConfig,
    VisualSamplingConfig,
)
from ernie5.data.sample import Audio, Image, Segment, Text, Video
from ernie5.errors import UserError

MEDIA = ("image", "video", "audio", "speaker")
MAX_ENLARGE = 64
_INLINE = re.compile(rf"<({'|'.join(MEDIA)}):([^<>]*)>")
_SOUND_ENDINGS = (".wav", ".flac")


def size(text: str) -> tuple[int, int]:
    """Width and height."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give width and height in pixels, such as 32x16")
    return int(match[1]), int(match[2])


def guidance(text: str) -> tuple[float, float]:
    """At the first and at the last scale."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no guidance: give a number from 0 on, such as 2, or two: 1,3")
    return numbers[0], numbers[-1]


def check_numbers(arguments: argparse.Namespace) -> None:
    """UserError for a number out of range."""
    if arguments.max_new_tokens < 1 or min(arguments.top_k, arguments.code_top_k, arguments.seed) < 0:
        raise UserError("--max-new-tokens must be 1 or more, --top-k, --code-top-k and --seed 0 or more")
    for kind in ("", "bit_", "code_"):
        temperature, top_p = (getattr(arguments, f"{kind}{name}") for name in ("temperature", "top_p"))
        if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
            prefix = f"--{kind.replace('_', '-')}"
            raise UserError(f"{prefix}temperature must be a number from 0 on, {prefix}top-p above 0 and at most 1")
    if not 0 <= arguments.code_guidance < math.inf or not 0 < arguments.max_seconds < math.inf:
        raise UserError("--code-guidance must be a number from 0 on, --max-seconds one above 0")
    if not 0 < arguments.fps < math.inf or not 1 <= arguments.enlarge <= MAX_ENLARGE:
        raise UserError(f"--fps must be a number above 0, --enlarge from 1 to {MAX_ENLARGE}")
    if arguments.num_frames is not None and arguments.draw == "image":
        raise UserError("--num-frames is of a film: leave it out, or draw one with --draw video")
    if arguments.num_frames is not None and arguments.num_frames < 2:
        raise UserError(f"--num-frames is {arguments.num_frames}: a film has 2 or more; for a picture --draw image")


def check_output(arguments: argparse.Namespace) -> None:
    """UserError for an output that is missing, or that does not fit what is made."""
    if arguments.draw and arguments.speak:
        raise UserError("--draw and --speak make one thing each: leave one of them out")
    option = "--speak" if arguments.speak else f"--draw {arguments.draw}" if arguments.draw else ""
    if option and not arguments.output:
        raise UserError(f"{option} needs --output FILE, to which it is written")
    if not arguments.output:
        return
    if arguments.speak or (not arguments.draw and is_sound_name(arguments.output)):
        from ernie5.data.sounds import check_sound_name

        check_sound_name(arguments.output)
    else:
        from ernie5.inference.media_files import check_name

        check_name(arguments.output, (arguments.num_frames or 2) if arguments.draw == "video" else 1, arguments.fps)


def is_sound_name(path: str) -> bool:
    return Path(path).suffix.lower() in _SOUND_ENDINGS


def segments(arguments: argparse.Namespace) -> list[Segment]:
    """Media of the options, then the prompt with the media named in it."""
    found = [_medium(*named, arguments.fps) for named in arguments.media]
    texts = _INLINE.split(arguments.prompt)  # text, kind, path, text, kind, path, ..., text
    for text, kind, path in zip(texts[::3], [*texts[1::3], ""], [*texts[2::3], ""], strict=True):
        found += [Text(text, loss=False)] if text else []
        found += [_medium(kind, path, arguments.fps)] if kind else []
    return found


def find_resolution(arguments: argparse.Namespace, vision: VisionConfig | None) -> ResolutionConfig:
    """The model's resolution of the size asked for."""
    if vision is None:
        raise UserError(f"{arguments.model} has no vision: to draw, take a model with vision")
    if arguments.size is None:
        return vision.resolutions[0]
    for resolution in vision.resolutions:
        if (resolution.width, resolution.height) == arguments.size:
            return resolution
    sizes = ", ".join(f"{resolution.width}x{resolution.height}" for resolution in vision.resolutions)
    raise UserError(f"--size {arguments.size[0]}x{arguments.size[1]}: this model draws {sizes}")


def film_length(arguments: argparse.Namespace, vision: VisionConfig) -> int:
    """Frames of a film: those asked for, or five or the next number that the tokenizer makes."""
    stride = vision.encoder.temporal_stride
    return arguments.num_frames or 1 + -(-4 // stride) * stride


def sampling(arguments: argparse.Namespace) -> GenerationConfig:
    """How text, bits and codes are drawn."""
    start, end = arguments.guidance
    return GenerationConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        vision=VisualSamplingConfig(
            temperature=arguments.bit_temperature, top_p=arguments.bit_top_p, guidance_start=start, guidance_end=end
        ),
        audio=AudioSamplingConfig(
            temperature=arguments.code_temperature,
            top_p=arguments.code_top_p,
            top_k=arguments.code_top_k,
            guidance=arguments.code_guidance,
            max_seconds=arguments.max_seconds,
        ),
    )


def numbered(output: str, number: int, num_frames: int) -> str:
    """The name of the next medium: `a.png` -> `a_1.png`, or what holds it: `a_1.gif` of a film, `a_1.wav` of a sound.

    num_frames: 0 of a sound.
    """
    path = Path(output)
    ending = path.suffix
    if not num_frames:
        ending = ending if is_sound_name(output) else ".wav"
    elif is_sound_name(output):
        ending = ".png" if num_frames == 1 else ".gif"
    elif num_frames > 1 and ending.lower() == ".png":
        ending = ".gif"
    return str(path.with_name(f"{path.stem}_{number}{ending}"))


def _medium(kind: str, path: str, fps: float) -> Segment:
    if not path:
        raise UserError(f"--{kind} and <{kind}:...> need a file's name, and one is empty: name the file")
    if kind == "image":
        return Image(path, "understand")
    if kind == "video":
        return Video(path, fps, "understand")
    return Audio(path, "speaker" if kind == "speaker" else "understand")
