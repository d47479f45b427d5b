"""The JSONL manifest: one sample a line. Strict: what is not understood is refused by file, line, cause and remedy."""

import difflib
import json
import math
import os
from collections.abc import Callable
from typing import Any, get_args

from ernie5.data.sample import Audio, ChatRole, Image, MediaRole, Message, Sample, Segment, SoundRole, Text, Video
from ernie5.errors import UserError


class BadLine(UserError):
    """A line that is no sample; the one mistake that `bad_line: skip` forgives."""


_KINDS = {str: "text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}
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
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise BadLine(f"{origin}: byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadLine(f"{origin}: not JSON ({error.msg} at column {error.colno}): write one object a line") from None
    except (ValueError, RecursionError) as error:
        raise BadLine(f"{origin}: not usable JSON ({error}): write one plain object a line") from None
    return _Line(origin, folder).sample(record)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f'the key "{repeated}" stands twice')
    return dict(pairs)


class _Line:
    """The parser of one line: knows where it stands, so that every refusal says it."""

    def __init__(self, origin: str, folder: str):
        self.origin, self.folder = origin, folder or "."

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

    def media_path(self, source: str, where: str) -> str:
        """The path of a medium, checked to exist inside the manifest's folder, links followed."""
        try:
            os.fsencode(source)
        except UnicodeEncodeError:
            raise self.bad(f"{where} {ascii(source)} is no file name (half a character): correct it") from None
        if "://" in source or source.startswith("data:"):
            raise self.bad(
                f'{where} "{source[:60]}" is an address: save the medium beside the manifest and name the file'
            )
        if os.path.isabs(source):
            raise self.bad(f'{where} "{source}" is absolute: give it relative to the manifest\'s folder {self.folder}')
        if "\0" in source:
            raise self.bad(f"{where} {source!r} holds a NUL character: name the file as it is on disk")
        path = os.path.join(self.folder, source)
        root = os.path.realpath(self.folder)
        if os.path.commonpath([os.path.realpath(path), root]) != root:
            raise self.bad(f'{where} "{source}" leads out of the manifest\'s folder {self.folder}: put the file inside')
        if not os.path.isfile(path):
            raise self.bad(f'{where} "{source}" is not a file in {self.folder}: correct the name or add the file')
        return path

    def frames_per_second(self, record: dict, where: str) -> float:
        fps = self.field(record, "fps", (int, float), where)
        if not (math.isfinite(fps) and fps > 0):
            raise self.bad(f"{where}.fps is {fps}: give a number above 0")
        return float(fps)

    def choice(self, record: dict, key: str, allowed: tuple[str, ...], where: str) -> Any:
        value = self.field(record, key, str, where)
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, 1)
            remedy = f'did you mean "{near[0]}"?' if near else f"one of {', '.join(allowed)} is expected"
            raise self.bad(f'{_join(where, key)} is "{value}": {remedy}')
        return value

    def field(self, record: dict, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
        if key not in record:
            raise self.bad(f'{where or "the line"} has no "{key}": add it')
        self.expect(record[key], kinds, _join(where, key))
        return record[key]

    def expect(self, value: Any, kinds: type | tuple[type, ...], where: str) -> None:
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in kinds:  # not isinstance: true is no number
            found = "null" if value is None else _KINDS[type(value)]
            wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise self.bad(f"{where} is {found}: {wanted} is expected")

    def refuse_unknown(self, record: dict, known: tuple[str, ...] | list[str], where: str) -> None:
        for key in record:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                remedy = f'did you mean "{near[0]}"?' if near else f"remove it; known here: {', '.join(known)}"
                raise self.bad(f'unknown key "{_join(where, key)}": {remedy}')

    def bad(self, text: str) -> BadLine:
        return BadLine(f"{self.origin}: {text}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
