"""The JSONL manifest: one sample a line. Strict: what is not understood is refused by file, line, cause and remedy."""

import math
from collections.abc import Callable
from typing import Any, get_args

from ernie5.data.records import BadLine, LineChecks, parse_json
from ernie5.data.sample import Audio, ChatRole, Image, MediaRole, Message, Sample, Segment, SoundRole, Text, Video

__all__ = ["BadLine", "parse_line"]

_FORMS = {
    "text": ("text",),
    "segments": ("segments",),
    "messages": ("messages",),
    "src": ("src", "tgt", "system"),
}
_MEDIA_PARTS = ("image_url", "video_url", "audio_url")


def parse_line(line: bytes, origin: str, folder: str) -> Sample:
    """One line of a manifest -> its sample. `folder` is the manifest's own: media paths start there and stay inside.

    Raises BadLine. The forms: `text`, `segments`, `messages` (OpenAI's chat), `src`/`tgt`/`system` (erniekit's chat).
    """
    return _Line(origin, folder).sample(parse_json(line, origin))


class _Line(LineChecks):
    """The parser of one line."""

    def sample(self, record: Any) -> Sample:
        self.expect(record, dict, "the line")
        forms = [form for form in _FORMS if form in record]
        if len(forms) > 1:
            raise self.bad(f'has both "{forms[0]}" and "{forms[1]}": keep one')
        if not forms:
            self.refuse_unknown(record, [key for keys in _FORMS.values() for key in keys], "")
            raise self.bad('has none of "text", "segments", "messages", "src": give one')
        self.refuse_unknown(record, _FORMS[forms[0]], "")
        if forms[0] == "text":
            return Sample(segments=(Text(self.field(record, "text", str, "")),), origin=self.origin)
        if forms[0] == "segments":
            return Sample(segments=self.each(record, "segments", self.segment), origin=self.origin)
        messages = self.each(record, "messages", self.message) if forms[0] == "messages" else self.turns(record)
        return Sample(messages=messages, origin=self.origin)

    def segment(self, record: Any, where: str) -> Segment:
        self.expect(record, dict, where)
        kind = self.choice(record, "type", ("text", "image", "video", "audio"), where)
        if kind == "text":
            self.refuse_unknown(record, ("type", "text", "loss"), where)
            loss = self.field(record, "loss", bool, where) if "loss" in record else True
            return Text(self.field(record, "text", str, where), loss)
        self.refuse_unknown(record, ("type", "source", "role") + (("fps",) if kind == "video" else ()), where)
        source = self.media_path(self.field(record, "source", str, where), f"{where}.source")
        role = self.choice(record, "role", get_args(SoundRole if kind == "audio" else MediaRole), where)
        if kind == "video":
            return Video(source, self.frames_per_second(record, where), role)
        return Image(source, role) if kind == "image" else Audio(source, role)

    def message(self, record: Any, where: str) -> Message:
        self.expect(record, dict, where)
        role = self.choice(record, "role", get_args(ChatRole), where)
        by_assistant = role == "assistant"
        self.refuse_unknown(record, ("role", "content") + (("reasoning_content",) if by_assistant else ()), where)
        reasoning = self.field(record, "reasoning_content", str, where) if "reasoning_content" in record else ""
        content = self.field(record, "content", (str, list), where)
        if isinstance(content, str):
            return Message(role, (Text(content, loss=by_assistant),), reasoning)
        parts = (self.part(part, role, f"{where}.content[{i}]") for i, part in enumerate(content))
        return Message(role, tuple(parts), reasoning)

    def part(self, record: Any, role: str, where: str) -> Segment:
        """A part of a message, in OpenAI's spelling; the assistant's media are generated, the others understood."""
        self.expect(record, dict, where)
        kind = self.choice(record, "type", ("text", *_MEDIA_PARTS), where)
        if kind == "text":
            self.refuse_unknown(record, ("type", "text"), where)
            return Text(self.field(record, "text", str, where), loss=role == "assistant")
        self.refuse_unknown(record, ("type", kind), where)
        inner = self.field(record, kind, dict, where)
        where = f"{where}.{kind}"
        self.refuse_unknown(inner, ("url", "fps") if kind == "video_url" else ("url",), where)
        source = self.media_path(self.field(inner, "url", str, where), f"{where}.url")
        use = "generate" if role == "assistant" else "understand"
        if kind == "video_url":
            return Video(source, self.frames_per_second(inner, where), use)
        return Image(source, use) if kind == "image_url" else Audio(source, use)

    def turns(self, record: dict) -> tuple[Message, ...]:
        """erniekit's chat: `src` are the user's turns, `tgt` the assistant's; each a text or a list of texts."""
        asked, answered = self.texts(record, "src"), self.texts(record, "tgt")
        if len(asked) != len(answered):
            raise self.bad(f"src has {len(asked)} turns and tgt {len(answered)}: give an answer to each")
        messages = []
        if "system" in record:
            messages.append(Message("system", (Text(self.field(record, "system", str, ""), loss=False),)))
        for question, answer in zip(asked, answered, strict=True):
            messages += [Message("user", (Text(question, loss=False),)), Message("assistant", (Text(answer),))]
        return tuple(messages)

    def texts(self, record: dict, key: str) -> list[str]:
        value = self.field(record, key, (str, list), "")
        values = [value] if isinstance(value, str) else value
        if not values:
            raise self.bad(f"{key} is empty: give at least one turn")
        for i, text in enumerate(values):
            self.expect(text, str, f"{key}[{i}]")
        return values

    def each(self, record: dict, key: str, parse: Callable[[Any, str], Any]) -> tuple:
        values = self.field(record, key, list, "")
        if not values:
            raise self.bad(f"{key} is empty: give at least one")
        return tuple(parse(value, f"{key}[{i}]") for i, value in enumerate(values))

    def frames_per_second(self, record: dict, where: str) -> float:
        fps = self.field(record, "fps", (int, float), where)
        if not (math.isfinite(fps) and fps > 0):
            raise self.bad(f"{where}.fps is {fps}: give a number above 0")
        return float(fps)
