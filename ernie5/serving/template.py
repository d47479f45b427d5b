"""Messages become a prompt, as training encoded what the model learned from: the one place where a server does that."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ernie5.data.sample import Message, Segment, Text
from ernie5.errors import UserError
from ernie5.inference.request import Request
from ernie5.serving.settings import ChatTemplate

TEMPLATES: tuple[ChatTemplate, ...] = ("plain", "chat")
_ROLES = {"developer": "system"}  # OpenAI's later name


class Turn(NamedTuple):
    """A message with its media as files."""

    role: str
    content: tuple[Segment, ...]
    reasoning: str = ""


def to_prompt(turns: Sequence[Turn], template: ChatTemplate) -> tuple[Segment, ...] | tuple[Message, ...]:
    """What the engine is asked.

    chat: turns in ERNIE's form, `<|user|>...<|end|>`, and the assistant's turn begins; for models trained on
    `messages`. plain: what the messages hold, one behind the other, a line break where text meets text; for models
    trained on documents, whose prompt is the beginning of one, such as a picture and a question.
    """
    if template == "chat":
        return tuple(Message(_ROLES.get(turn.role, turn.role), turn.content, turn.reasoning) for turn in turns)
    segments: list[Segment] = []
    for turn in turns:
        if segments and isinstance(segments[-1], Text) and turn.content and isinstance(turn.content[0], Text):
            segments.append(Text("\n", loss=False))
        segments += turn.content
    return tuple(segments)


def template_of(folder: Path | str, chosen: str | None) -> ChatTemplate:
    """The one chosen, else the `chat_template` of the folder's `generation_config.json`, else plain.

    Nothing in the weights tells whether a model was trained on chats, so what trained it says so there.
    """
    if chosen is None:
        path = Path(folder) / "generation_config.json"
        try:
            chosen = json.loads(path.read_text(encoding="utf-8")).get("chat_template", "plain")
        except (OSError, ValueError, AttributeError):
            chosen = "plain"
        if chosen not in TEMPLATES:
            raise UserError(f"{path}: chat_template is {chosen!r}: write one of {', '.join(TEMPLATES)}")
    return chosen


def segments_of(request: Request) -> tuple[Segment, ...]:
    """Texts and media of a prompt of either form."""
    parts = [part.content if isinstance(part, Message) else (part,) for part in request.prompt]
    return tuple(segment for part in parts for segment in part)
