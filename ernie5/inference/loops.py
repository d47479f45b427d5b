"""Which loop answers a request."""

from collections.abc import Callable

from ernie5.errors import UserError
from ernie5.inference.coders import require_audio, require_vision
from ernie5.inference.constraints import guides
from ernie5.inference.draw import count_latent_frames, draw
from ernie5.inference.prompt import Prompt
from ernie5.inference.request import Canvas
from ernie5.inference.speak import speak
from ernie5.inference.task import Loop, Task
from ernie5.inference.write import MakeMedium, Writer, write


def make_loop(task: Task, prompt: Prompt) -> Callable[[], Loop]:
    """What begins the answer, as often as it is called.

    Raises UserError for a canvas that cannot be drawn on, for coders that cannot make what is asked for, and for a
    constraint that is none.
    """
    request = task.request
    if request.begin == "text":
        guide = guides(request.constraint, task.tokenizer)
        if guide is not None:
            return lambda: write(task, prompt, guide(), {})
        media = _media(task)
        return lambda: write(task, prompt, None, media)
    make, mark = _maker(task, request.begin)
    return lambda: _one_medium(task, prompt, make, mark)


def _one_medium(task: Task, prompt: Prompt, make: MakeMedium, mark: int) -> Loop:
    writer = Writer(task, prompt)
    yield from writer.read_prompt()
    yield from make(writer, mark)


def _media(task: Task) -> dict[int, MakeMedium]:
    """By the mark that begins it, what may come in the midst of text."""
    request, found = task.request, {}
    if request.canvas is not None:
        for begin in ("image", "video"):
            make, mark = _maker(task, begin)
            found[mark] = make
    if request.speaks and task.coders.audio is not None:
        make, mark = _maker(task, "audio")
        found[mark] = make
    return found


def _maker(task: Task, what: str) -> tuple[MakeMedium, int]:
    """How a medium is made, and the mark of its beginning."""
    request, mark = task.request, task.tokenizer.special_ids
    if what == "audio":
        codec = require_audio(task.coders, task.model).tokenizer
        marks = mark["<boa>"], mark["<eoa>"]
        return lambda writer, _: speak(task, writer, codec, marks, request.streams_sound), marks[0]
    codec, canvas = require_vision(task.coders, task.model), request.canvas
    if canvas is None:
        raise UserError(f"a request for {what} says nothing of its size: give it a canvas")
    if what == "image":
        canvas = Canvas(canvas.resolution, 1)
    count_latent_frames(canvas.num_frames, codec)
    marks = (mark["<boi>"], mark["<eoi>"]) if what == "image" else (mark["<bov>"], mark["<eov>"])
    return lambda writer, _: draw(task, writer, codec, canvas, marks), marks[0]
