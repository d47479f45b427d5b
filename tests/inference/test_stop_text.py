"""Stop texts in pieces."""

import itertools

import pytest

from ernie5.inference.stop_text import StopText


def told(text: str, stops, cuts) -> tuple[str, bool]:
    stop, places = StopText(stops), [0, *cuts, len(text)]
    found = "".join(stop.push(text[a:b]) for a, b in itertools.pairwise(places))
    return found + stop.finish(), stop.found


@pytest.mark.parametrize("stops", [("END",), ("abc", "bcd"), ("\n\n",), ("aab", "E"), ()])
def test_what_is_told_is_the_text_before_the_first_stop_however_it_is_cut(stops):
    for text in ("aaabEND abc", "xx\n\nyy", "ENENEND", "abcd", "abEN", "\n"):
        places = [text.find(stop) for stop in stops if stop in text]
        expected = text[: min(places)] if places else text
        for count in range(3):
            for cuts in itertools.combinations(range(len(text) + 1), count):
                if len(stops) < 2 or not places:  # of several, the one that is whole first counts
                    assert told(text, stops, cuts) == (expected, bool(places))


def test_text_that_begins_no_stop_is_told_at_once():
    stop = StopText(("END",))
    assert [stop.push(piece) for piece in ("abE", "N", "x", "E")] == ["ab", "", "ENx", ""]
    assert stop.finish() == "E" and not stop.found
