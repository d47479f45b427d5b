"""The JSONL manifest: every form is understood, and every mistake is named."""

import json
import os

import pytest

from ernie5.data.manifest import BadLine, parse_line
from ernie5.data.sample import Audio, Image, Message, Text, Video
from ernie5.errors import UserError


def parse(record, folder="."):
    return parse_line(json.dumps(record).encode(), "a.jsonl:7", str(folder))


@pytest.fixture
def media(tmp_path):
    for name in ("a.png", "b.mp4", "c.wav"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_text_form_is_one_segment_with_loss():
    assert parse({"text": "one\ntwo"}).segments == (Text("one\ntwo", loss=True),)


def test_segments_keep_their_order_kinds_and_roles(media):
    sample = parse(
        {
            "segments": [
                {"type": "text", "text": "see", "loss": False},
                {"type": "image", "source": "a.png", "role": "understand"},
                {"type": "video", "source": "b.mp4", "fps": 2, "role": "generate"},
                {"type": "audio", "source": "c.wav", "role": "understand"},
            ]
        },
        media,
    )
    assert sample.segments == (
        Text("see", loss=False),
        Image(str(media / "a.png"), "understand"),
        Video(str(media / "b.mp4"), 2.0, "generate"),
        Audio(str(media / "c.wav"), "understand"),
    )


@pytest.mark.parametrize("role", ["understand", "generate", "speaker"])
def test_sounds_are_heard_made_or_lend_their_voice(media, role):
    sample = parse({"segments": [{"type": "audio", "source": "c.wav", "role": role}]}, media)
    assert sample.segments == (Audio(str(media / "c.wav"), role),)


def test_openai_messages_give_loss_to_the_assistant_alone():
    sample = parse({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]})
    assert sample.messages == (Message("user", (Text("2+2?", False),)), Message("assistant", (Text("4", True),)))


def test_assistant_reasoning_is_kept_beside_the_answer():
    sample = parse({"messages": [{"role": "assistant", "content": "4", "reasoning_content": "two and two"}]})
    assert sample.messages[0].reasoning == "two and two"


def test_media_parts_are_understood_from_the_user_and_generated_by_the_assistant(media):
    part = {"type": "image_url", "image_url": {"url": "a.png"}}
    sample = parse({"messages": [{"role": role, "content": [part]} for role in ("user", "assistant")]}, media)
    assert [segment.role for segment in sample.all_segments()] == ["understand", "generate"]


def test_erniekit_chat_becomes_alternating_messages():
    sample = parse({"src": ["a", "c"], "tgt": ["b", "d"], "system": "s"})
    assert [(m.role, m.content[0].text) for m in sample.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


IMAGE = {"type": "image", "source": "a.png", "role": "understand"}
VIDEO = {"type": "video", "source": "b.mp4", "role": "understand", "fps": 1}
REFUSED = {
    "unknown top key": ({"txet": "a"}, 'unknown key "txet": did you mean "text"?'),
    "key beside the form": ({"text": "a", "id": 3}, 'unknown key "id": remove it'),
    "two forms": ({"text": "a", "messages": []}, 'has both "text" and "messages": keep one'),
    "no form": ({}, 'has none of "text", "segments", "messages", "src"'),
    "not an object": (["a"], "the line is a list: an object is expected"),
    "null": ({"text": None}, "text is null: text is expected"),
    "number for text": ({"text": 3}, "text is a number: text is expected"),
    "text for flag": ({"segments": [{"type": "text", "text": "a", "loss": "no"}]}, "segments[0].loss is text: true or"),
    "empty segments": ({"segments": []}, "segments is empty"),
    "unknown kind": ({"segments": [{**IMAGE, "type": "imgae"}]}, 'segments[0].type is "imgae": did you mean "image"?'),
    "missing source": ({"segments": [{"type": "image", "role": "understand"}]}, 'segments[0] has no "source": add it'),
    "missing role": ({"segments": [{"type": "image", "source": "a.png"}]}, 'segments[0] has no "role": add it'),
    "unknown role": ({"segments": [{**IMAGE, "role": "generat"}]}, 'segments[0].role is "generat": did you mean'),
    "voice of a picture": (
        {"segments": [{**IMAGE, "role": "speaker"}]},
        'segments[0].role is "speaker": one of understand, generate is expected',
    ),
    "fps on a picture": ({"segments": [{**IMAGE, "fps": 1}]}, 'unknown key "segments[0].fps"'),
    "fps of 0": ({"segments": [{**VIDEO, "fps": 0}]}, "segments[0].fps is 0: give a number above 0"),
    "fps not a number": (
        {"segments": [{**VIDEO, "fps": True}]},
        "segments[0].fps is true or false: a number is expected",
    ),
    "fps missing": ({"segments": [{"type": "video", "source": "b.mp4", "role": "generate"}]}, 'has no "fps"'),
    "chat role": ({"messages": [{"role": "bot", "content": "a"}]}, 'messages[0].role is "bot"'),
    "chat content": ({"messages": [{"role": "user", "content": 3}]}, "content is a number: text or a list is expected"),
    "chat key": ({"messages": [{"role": "user", "content": "a", "contnet": 1}]}, 'did you mean "content"?'),
    "reasoning of a user": (
        {"messages": [{"role": "user", "content": "a", "reasoning_content": "b"}]},
        'unknown key "messages[0].reasoning_content"',
    ),
    "turns that do not pair": ({"src": ["a"], "tgt": []}, "tgt is empty"),
    "fewer answers": ({"src": ["a", "b"], "tgt": ["c"]}, "src has 2 turns and tgt 1: give an answer to each"),
    "absolute path": ({"segments": [{**IMAGE, "source": "/etc/passwd"}]}, '"/etc/passwd" is absolute'),
    "path that climbs out": ({"segments": [{**IMAGE, "source": "../a.png"}]}, "leads out of the manifest's folder"),
    "missing medium": ({"segments": [{**IMAGE, "source": "z.png"}]}, '"z.png" is not a file in'),
    "an address": ({"segments": [{**IMAGE, "source": "http://x/a.png"}]}, "is an address: save the medium"),
}


@pytest.mark.parametrize("record, cause", REFUSED.values(), ids=REFUSED)
def test_mistake_is_refused_with_file_line_cause(media, record, cause):
    with pytest.raises(BadLine) as caught:
        parse(record, media)
    assert str(caught.value).startswith("a.jsonl:7: ")
    assert cause in str(caught.value)


BROKEN = {
    "cut off": (b'{"text": "a', "not JSON"),
    "latin-1": (b'{"text": "\xe9"}', "byte 11 of the line is not UTF-8"),
    "too deep": (b"[" * 100_000, "not usable JSON"),
    "huge number": (b'{"text": ' + b"1" * 5000 + b"}", "not usable JSON"),
}


@pytest.mark.parametrize("line, cause", BROKEN.values(), ids=BROKEN)
def test_line_that_is_no_json_is_refused(line, cause):
    with pytest.raises(BadLine, match=f"^a.jsonl:7: {cause}"):
        parse_line(line, "a.jsonl:7", ".")


def test_link_out_of_the_folder_is_refused(media, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(b"")
    os.symlink(outside, media / "link.png")
    with pytest.raises(UserError, match="leads out of the manifest's folder"):
        parse({"segments": [{**IMAGE, "source": "link.png"}]}, media)


def test_link_inside_the_folder_is_followed(media):
    os.symlink(media / "a.png", media / "link.png")
    assert parse({"segments": [{**IMAGE, "source": "link.png"}]}, media).segments[0].source.endswith("link.png")


def test_lone_surrogate_survives():
    assert parse_line(b'{"text": "\\ud800"}', "a:1", ".").segments[0].text == "\ud800"


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(BadLine, match='f:1: .*"text" stands twice'):
        parse_line(b'{"text": "a", "text": "b"}', "f:1", ".")


def test_media_name_that_is_no_file_name_is_refused():
    line = b'{"segments": [{"type": "image", "source": "\\ud800.png", "role": "understand"}]}'
    with pytest.raises(BadLine, match="is no file name"):
        parse_line(line, "here", ".")
