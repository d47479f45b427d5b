"""What the options of tools/generate.py mean."""

from argparse import Namespace

import pytest

from ernie5.data.sample import Audio, Image, Text, Video
from ernie5.inference.options import numbered, segments


def test_media_stand_where_they_are_named():
    given = [("speaker", "me.wav"), ("image", "a.png")]
    found = segments(Namespace(media=given, prompt="One <audio:b.wav> two<video:c.mp4>", fps=2.0))
    assert found == [
        Audio("me.wav", "speaker"),
        Image("a.png", "understand"),
        Text("One ", loss=False),
        Audio("b.wav", "understand"),
        Text(" two", loss=False),
        Video("c.mp4", 2.0, "understand"),
    ]


@pytest.mark.parametrize(
    "output, num_frames, expected",
    [
        ("d/a.png", 1, "d/a_2.png"),
        ("d/a.png", 5, "d/a_2.gif"),
        ("d/a.mp4", 5, "d/a_2.mp4"),
        ("d/a.png", 0, "d/a_2.wav"),
        ("d/a.flac", 0, "d/a_2.flac"),
        ("d/a.flac", 1, "d/a_2.png"),
        ("d/a.wav", 5, "d/a_2.gif"),
    ],
)
def test_numbered_file_has_an_ending_that_holds_the_medium(output, num_frames, expected):
    assert numbered(output, 2, num_frames) == expected
