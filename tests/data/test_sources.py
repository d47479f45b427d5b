"""Sources: what a path opens, where documents begin and end, and what is refused."""

import logging
import os

import pytest

from ernie5.config.schema import SourceConfig
from ernie5.data import sources
from ernie5.data.manifest import BadLine
from ernie5.data.pieces import Pieces
from ernie5.data.sources import check_source, open_source
from ernie5.errors import UserError


def open_file(tmp_path, name, data, **settings):
    (tmp_path / name).write_bytes(data)
    return open_source(SourceConfig(name="s", path=str(tmp_path / name), **settings))


def texts(corpus):
    return [corpus[i].segments[0].text for i in range(len(corpus))]


def test_jsonl_skips_mark_blank_lines_and_windows_line_ends(tmp_path):
    corpus = open_file(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert texts(corpus) == ["a", "b"]
    assert [corpus[i].origin.rsplit(":", 1)[1] for i in range(2)] == ["1", "4"]


@pytest.mark.parametrize(
    "separator, expected",
    [("file", ["a\nb\n\n \nc\n"]), ("line", ["a", "b", "c"]), ("blank_line", ["a\nb", "c"])],
)
def test_plain_text_is_cut_by_its_separator(tmp_path, separator, expected):
    corpus = open_file(tmp_path, "a.txt", b"\xef\xbb\xbfa\r\nb\r\n\r\n \r\nc\r\n", document_separator=separator)
    assert texts(corpus) == expected


def test_folder_opens_every_file_below_in_order_but_hidden_ones(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, data in {
        "b.txt": "b",
        "a.jsonl": '{"text": "a"}',
        "sub/c.md": "c",
        ".git/x": "x",
        "empty.txt": "",
    }.items():
        (tmp_path / name).write_text(data)
    assert texts(open_source(SourceConfig(name="s", path=str(tmp_path)))) == ["a", "b", "c"]


def test_glob_opens_its_matches(tmp_path):
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert texts(open_source(SourceConfig(name="s", path=str(tmp_path / "*.txt")))) == ["a.txt", "b.txt"]


def test_pydoc_gives_topics_whole_and_in_the_order_of_their_names():
    from pydoc_data.topics import topics

    found = texts(open_source(SourceConfig(name="s", path="pydoc")))
    names = [name for name in sorted(topics) if topics[name] in found]
    assert found == [topics[name] for name in names] and len(names) > 30


def test_documents_are_read_when_asked_for(tmp_path):
    corpus = open_file(tmp_path, "a.txt", b"one\ntwo\n", document_separator="line")
    (tmp_path / "a.txt").write_bytes(b"one\nTWO\n")
    assert texts(corpus) == ["one", "TWO"]


def test_file_that_shrinks_is_noticed(tmp_path):
    corpus = open_file(tmp_path, "a.txt", b"one\ntwo\n", document_separator="line")
    (tmp_path / "a.txt").write_bytes(b"one\n")
    with pytest.raises(UserError, match="became shorter"):
        corpus[1]


def test_file_that_vanishes_is_noticed(tmp_path):
    corpus = open_file(tmp_path, "a.txt", b"one\n")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="a.txt: can no longer be read"):
        corpus[0]


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"source s: .*nothing.txt is not a file, a folder or a glob"):
        open_source(SourceConfig(name="s", path=str(tmp_path / "nothing.txt")))


@pytest.mark.parametrize("name, data", [("a.txt", b""), ("a.jsonl", b"\n \n"), ("a.txt", b"\xef\xbb\xbf")])
def test_empty_corpus_is_refused(tmp_path, name, data):
    with pytest.raises(UserError, match="holds no document"):
        open_file(tmp_path, name, data)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is an empty folder"):
        open_source(SourceConfig(name="s", path=str(tmp_path)))


def test_json_array_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="ends in .json: write it as JSONL"):
        open_file(tmp_path, "a.json", b"[]")


def test_unreadable_file_is_refused(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        open_source(SourceConfig(name="s", path=str(tmp_path / "a.txt")))


def test_text_that_is_not_utf8_is_named_by_its_byte(tmp_path):
    corpus = open_file(tmp_path, "a.txt", b"one\ntw\xff\n", document_separator="line")
    with pytest.raises(BadLine, match=r"a.txt:2: byte 6 of the file, 0xff, is not UTF-8"):
        corpus[1]


def test_check_raises_the_first_bad_line(tmp_path):
    corpus = open_file(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": 1}\n')
    with pytest.raises(BadLine, match=r"a.jsonl:2: text is a number"):
        check_source(corpus, "error")


def test_check_counts_and_reports_lines_to_skip(tmp_path, caplog):
    corpus = open_file(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": 1}\nx\n')
    with caplog.at_level(logging.WARNING):
        check_source(corpus, "skip")
    assert "2 of 3 documents are malformed and left out" in caplog.text
    assert "a.jsonl:2: text is a number" in caplog.text


def test_corpus_of_bad_lines_alone_is_refused_even_when_skipping(tmp_path):
    with pytest.raises(UserError, match="every line is malformed"):
        check_source(open_file(tmp_path, "a.jsonl", b"x\ny\n"), "skip")


def test_large_corpus_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHECK_BYTES", 10)
    check_source(open_file(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": 1}\n'), "error")


def test_samples_leaves_bad_lines_out_only_when_asked(tmp_path):
    corpus = open_file(tmp_path, "a.jsonl", b'{"text": "a"}\nx\n{"text": "b"}\n')
    pieces = Pieces(corpus, 0, seed=0)
    assert [sample.segments[0].text for sample in pieces.samples(skip_bad_lines=True)] == ["a", "b"]
    assert [sample.segments[0].text for sample in pieces.samples(True, indices=[2, 1])] == ["b"]
    with pytest.raises(BadLine):
        list(pieces.samples(skip_bad_lines=False))


def test_links_out_of_a_folder_are_left_out_with_a_word(tmp_path, caplog):
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "folder" / "a.txt").write_text("inside")
    (tmp_path / "folder" / "b.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "folder" / "c.txt").symlink_to(tmp_path / "folder" / "a.txt")
    assert texts(open_source(SourceConfig(name="s", path=str(tmp_path / "folder")))) == ["inside", "inside"]
    assert "1 links that lead out of it are left out" in caplog.text
