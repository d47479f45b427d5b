"""Long plain texts in pieces: whole in every epoch, cut elsewhere in each."""

import pytest

from ernie5.config.schema import SourceConfig
from ernie5.data.pieces import Pieces
from ernie5.data.sources import open_source


@pytest.fixture
def open_text(tmp_path):
    def open_it(text):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
        return open_source(SourceConfig(name="s", path=str(tmp_path / "a.txt")))

    return open_it


TEXTS = {
    "lines": "".join(f"line {i} of a long text\n" for i in range(2000)),
    "words": "word " * 9000,
    "no spaces": "世é😀" * 4000,
    "windows": "a line\r\n" * 5000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pieces_of_an_epoch_make_up_the_text(open_text, text):
    pieces = Pieces(open_text(text), 2000, seed=0)
    assert len(pieces) == len(text.encode()) // 2000
    for epoch in range(4):
        samples = [pieces.sample(i, epoch) for i in range(len(pieces))]
        assert "".join(s.segments[0].text for s in samples) == text.replace("\r\n", "\n")


def test_only_the_ends_of_the_document_are_marked(open_text):
    pieces = Pieces(open_text(TEXTS["lines"]), 10_000, seed=0)
    samples = [pieces.sample(i, 0) for i in range(len(pieces))]
    assert [s.begins for s in samples] == [True, False, False, False]
    assert [s.ends for s in samples] == [False, False, False, True]


def test_cuts_stand_at_the_beginning_of_a_line(open_text):
    pieces = Pieces(open_text(TEXTS["lines"]), 2000, seed=0)
    assert all(pieces.sample(i, 3).segments[0].text.startswith("line") for i in range(len(pieces)))


def test_cuts_move_from_epoch_to_epoch(open_text):
    pieces = Pieces(open_text(TEXTS["lines"]), 2000, seed=0)
    assert len({pieces.sample(1, epoch).segments[0].text for epoch in range(8)}) > 4


def test_short_texts_and_manifests_stay_whole(open_text, tmp_path):
    assert len(Pieces(open_text("a" * 3999), 2000, 0)) == 1
    (tmp_path / "b.jsonl").write_text('{"text": "%s"}\n' % ("a" * 9000))
    assert len(Pieces(open_source(SourceConfig(name="s", path=str(tmp_path / "b.jsonl"))), 2000, 0)) == 1


def test_no_piece_length_leaves_documents_whole(open_text):
    assert len(Pieces(open_text(TEXTS["lines"]), 0, 0)) == 1
