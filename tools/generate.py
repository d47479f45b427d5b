"""Goes on from a prompt with a trained model: in text, in pictures, in films, in speech.

Text goes on from the prompt:

    python tools/generate.py runs/pydoc/model --prompt 'The "for" statement'
    python tools/generate.py runs/pydoc/model --prompt "A class" --temperature 0 --top-k-experts 2

Pictures, films and sounds are taken in before the prompt is read, in the order given, or where they are named in it:

    python tools/generate.py runs/digits/model --image digit.png --prompt "What digit is this?" --temperature 0
    python tools/generate.py runs/digits/model --prompt "<image:a.png> <image:b.png> Which is larger?"
    python tools/generate.py runs/speech/model --audio digit.wav --prompt "What digit is this?" --temperature 0

Something is drawn behind the prompt, which may itself hold media:

    python tools/generate.py runs/digits/model --prompt "Draw a seven." --draw image --output seven.png --enlarge 8
    python tools/generate.py runs/digits/model --prompt "A 3 moving left, fast." --draw video --num-frames 5 \\
        --size 16x16 --guidance 1,3 --output three.gif

Or spoken, in the voice of a reference clip if there is one:

    python tools/generate.py runs/speech/model --prompt "Say seven." --speak --output seven.wav
    python tools/generate.py runs/speech/model --speaker me.wav --prompt "Say seven." --speak --output seven.wav

Without --draw and --speak the model goes on as it likes: text, and media where it begins one, written to --output with
numbers.

The folder is `model/` of a run, or any other that holds config.json, the weights, the tokenizer and, to draw,
`vision_tokenizer/`, to hear and speak, `audio_tokenizer/`, to take a voice, `speaker_encoder/`.
"""

import argparse
import sys
from itertools import chain
from typing import TYPE_CHECKING

from ernie5.errors import exit_cleanly
from ernie5.inference import options

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.inference.request import Sound
    from ernie5.modality.batch import Coders
    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.model.subnet import Subnet
    from ernie5.tokenizers.text import TextTokenizer

WHAT_IS_TAKEN = {
    "image": "picture to look at",
    "video": "film to look at",
    "audio": "sound to hear",
    "speaker": "reference clip, whose voice is taken",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="DIR", help="model folder")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    parser.add_argument("--num-layers", type=int, default=0, help="elastic depth: layers to run; 0: all")
    parser.add_argument("--top-k-experts", type=int, default=0, help="elastic sparsity: experts a token; 0: as trained")
    parser.add_argument("--output", metavar="FILE", help="for what is drawn (.png, .gif, .mp4 or .webp) or spoken "
                        "(.wav or .flac)")  # fmt: skip
    add_prompt_options(parser.add_argument_group("prompt"))
    text = parser.add_argument_group("text")
    text.add_argument("--max-new-tokens", type=int, default=128)
    text.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
    text.add_argument("--top-p", type=float, default=0.95,
                      help="draw from the likeliest tokens of this joint probability")  # fmt: skip
    text.add_argument("--top-k", type=int, default=0, help="draw from this many likeliest tokens; 0: no limit")
    add_drawing_options(parser.add_argument_group("drawing"))
    add_speaking_options(parser.add_argument_group("speaking"))
    return parser.parse_args()


def add_prompt_options(prompt: argparse._ArgumentGroup) -> None:
    inline = ", ".join(f"<{kind}:FILE>" for kind in WHAT_IS_TAKEN)
    prompt.add_argument("--prompt", default="", help="beginning of the text; empty: the start of a document. "
                        f"{inline} in it stand for media")  # fmt: skip
    for kind, what in WHAT_IS_TAKEN.items():
        prompt.add_argument(f"--{kind}", dest="media", metavar="FILE", action="append", default=[],
                            type=lambda path, kind=kind: (kind, path),
                            help=f"{what}, before the prompt; may be given several times")  # fmt: skip
    prompt.add_argument("--fps", type=float, default=4.0, metavar="N",
                        help="frames a second at which films are seen and written (default %(default)s)")  # fmt: skip


def add_drawing_options(drawing: argparse._ArgumentGroup) -> None:
    drawing.add_argument("--draw", choices=("image", "video"), help="draw instead of going on in text")
    drawing.add_argument(
        "--size", type=options.size, metavar="WxH", help="pixels, one of the model's sizes (default: its first)"
    )
    drawing.add_argument(
        "--num-frames", type=int, metavar="N", help="of a film (default: 5, or as the tokenizer makes them)"
    )
    drawing.add_argument("--enlarge", type=int, default=1, metavar="N", help="write every pixel as N x N")
    drawing.add_argument("--guidance", type=options.guidance, default=(2.0, 2.0), metavar="A[,B]",
                         help="how much the prompt counts: 1 as learned, more is nearer to it and less varied; "
                         "B at the finest scale (default 2)")  # fmt: skip
    drawing.add_argument("--bit-temperature", type=float, default=1.0,
                         help="of the bits of a picture; 0: always the likelier value")  # fmt: skip
    drawing.add_argument("--bit-top-p", type=float, default=1.0,
                         help="a bit whose likelier value has this probability takes it")  # fmt: skip


def add_speaking_options(speaking: argparse._ArgumentGroup) -> None:
    speaking.add_argument("--speak", action="store_true", help="speak instead of going on in text")
    speaking.add_argument("--max-seconds", type=float, default=10.0, metavar="N",
                          help="of a sound, which is ended there (default %(default)s)")  # fmt: skip
    speaking.add_argument("--code-guidance", type=float, default=1.0, metavar="G",
                          help="how much the prompt counts: 1 as learned (default %(default)s)")  # fmt: skip
    speaking.add_argument("--code-temperature", type=float, default=0.5,
                          help="of the codes of a sound; 0: always the likeliest (default %(default)s)")  # fmt: skip
    speaking.add_argument("--code-top-p", type=float, default=0.8,
                          help="draw from the likeliest codes of this joint probability")  # fmt: skip
    speaking.add_argument("--code-top-k", type=int, default=0,
                          help="draw from this many likeliest codes; 0: no limit")  # fmt: skip


def main() -> None:
    arguments = parse_arguments()
    options.check_numbers(arguments)
    options.check_output(arguments)
    from ernie5.config.schema import MemberConfig, OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle()
    runtime.configure(OpsConfig())
    from ernie5.config.rules import check_member
    from ernie5.elastic.sampler import member_subnet
    from ernie5.inference.coders import load_coders
    from ernie5.model.folder import from_pretrained
    from ernie5.tokenizers.text import TextTokenizer

    model, tokenizer = from_pretrained(arguments.model), TextTokenizer.from_pretrained(arguments.model)
    member = MemberConfig(name="this run", num_layers=arguments.num_layers, top_k=arguments.top_k_experts)
    check_member(member, model.config)
    subnet, coders = member_subnet(model.config, member), load_coders(arguments.model, model.config)
    if arguments.draw:
        draw_one(arguments, model, tokenizer, coders, subnet)
    elif arguments.speak:
        speak_one(arguments, model, tokenizer, coders, subnet)
    else:
        go_on(arguments, model, tokenizer, coders, subnet)


def draw_one(
    arguments: argparse.Namespace,
    model: "Ernie5ForCausalLM",
    tokenizer: "TextTokenizer",
    coders: "Coders",
    subnet: "Subnet",
) -> None:
    from ernie5.inference.ask import draw

    resolution = options.find_resolution(arguments, model.config.vision)
    num_frames = options.film_length(arguments, model.config.vision) if arguments.draw == "video" else 1
    prompts, config = [options.segments(arguments)], options.sampling(arguments).vision
    (frames,) = draw(model, tokenizer, coders, prompts, resolution, num_frames, config, arguments.seed, subnet)
    write(arguments, arguments.output, frames)


def speak_one(
    arguments: argparse.Namespace,
    model: "Ernie5ForCausalLM",
    tokenizer: "TextTokenizer",
    coders: "Coders",
    subnet: "Subnet",
) -> None:
    from ernie5.inference.ask import speak
    from ernie5.inference.request import Sound

    prompts, config = [options.segments(arguments)], options.sampling(arguments).audio
    (samples,) = speak(model, tokenizer, coders, prompts, config, arguments.seed, subnet)
    write(arguments, arguments.output, Sound(samples, model.config.audio.sample_rate))


def go_on(
    arguments: argparse.Namespace,
    model: "Ernie5ForCausalLM",
    tokenizer: "TextTokenizer",
    coders: "Coders",
    subnet: "Subnet",
) -> None:
    """Writes text as it comes."""
    from ernie5.inference.ask import converse
    from ernie5.inference.request import Canvas, Sound

    canvas, vision = None, model.config.vision
    if coders.vision is not None and coders.vision.tokenizer is not None:
        canvas = Canvas(options.find_resolution(arguments, vision), options.film_length(arguments, vision))
    prompt, config = options.segments(arguments), options.sampling(arguments)
    pieces = converse(model, tokenizer, prompt, config, canvas, arguments.seed, subnet, coders)
    first = next(pieces, "")  # once the prompt has been read; a mistake in it is told without an echo
    sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(arguments.prompt)
    number = 0
    for piece in chain([first], pieces):
        if isinstance(piece, str):
            sys.stdout.write(piece)
            sys.stdout.flush()
            continue
        is_sound = isinstance(piece, Sound)
        if arguments.output:
            number += 1
            write(arguments, options.numbered(arguments.output, number, 0 if is_sound else len(piece)), piece)
        else:
            verb = "spoken" if is_sound else "drawn"
            sys.stderr.write(f"\n(something was {verb} here: give --output FILE to keep it)\n")
    sys.stdout.write("\n")


def write(arguments: argparse.Namespace, path: str, medium: "np.ndarray | Sound") -> None:
    from ernie5.data.sounds import write_sound
    from ernie5.inference.media_files import enlarge, save_media
    from ernie5.inference.request import Sound

    if isinstance(medium, Sound):
        write_sound(path, *medium)
        sys.stderr.write(f"spoken: {path}\n")
    else:
        save_media(path, enlarge(medium, arguments.enlarge), arguments.fps)
        sys.stderr.write(f"drawn: {path}\n")


if __name__ == "__main__":
    exit_cleanly(main)
