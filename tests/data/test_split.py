"""The cut between training and validation: exact, repeatable, without overlap."""

import pytest

from ernie5.config.schema import DataConfig, SourceConfig
from ernie5.data.sources import open_source
from ernie5.data.split import open_splits, split_documents, split_tail
from ernie5.errors import UserError


@pytest.fixture
def open_text(tmp_path):
    def open_it(text, separator="file", name="s"):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
        return open_source(SourceConfig(name=name, path=str(tmp_path / "a.txt"), document_separator=separator))

    return open_it


def texts(corpus):
    return [corpus[i].segments[0].text for i in range(len(corpus))]


@pytest.mark.parametrize("size, fraction, held_out", [(100, 0.1, 10), (79, 0.1, 8), (2, 0.01, 1), (3, 0.99, 2)])
def test_document_split_has_the_exact_size_and_covers_all(open_text, size, fraction, held_out):
    corpus = open_text("\n".join(map(str, range(size))), "line")
    train, validation = split_documents(corpus, fraction, seed=0)
    assert len(validation) == held_out
    assert sorted(texts(train) + texts(validation)) == sorted(map(str, range(size)))


def test_document_split_is_a_function_of_seed_and_name(open_text):
    lines = "\n".join(map(str, range(200)))
    chosen = {
        (seed, name): tuple(texts(split_documents(open_text(lines, "line", name), 0.1, seed)[1]))
        for seed in (0, 1)
        for name in ("s", "t")
    }
    again = tuple(texts(split_documents(open_text(lines, "line"), 0.1, 0)[1]))
    assert chosen[0, "s"] == again
    assert len(set(chosen.values())) == 4


def test_one_document_cannot_be_split_by_document(open_text):
    with pytest.raises(UserError, match="has 1 document.*validation_by: tail"):
        split_documents(open_text("a"), 0.1, 0)


def test_tail_split_of_one_text_is_nanogpts(open_text):
    text = "".join(chr(97 + i % 26) for i in range(1003))
    train, validation = split_tail(open_text(text), 0.1)
    assert (texts(train), texts(validation)) == ([text[: int(len(text) * 0.9)]], [text[int(len(text) * 0.9) :]])


@pytest.mark.parametrize("size", range(20, 40))
def test_tail_split_cuts_between_characters(open_text, size):
    text = "é世😀a" * size
    train, validation = split_tail(open_text(text), 0.1)
    assert texts(train)[0] + texts(validation)[0] == text


def test_tail_split_of_many_documents_cuts_one_and_keeps_the_order(open_text):
    train, validation = split_tail(open_text("aaaa\nbbbb\ncccc\ndddd", "line"), 0.4)
    assert (texts(train), texts(validation)) == (["aaaa", "bbbb", "c"], ["ccc", "dddd"])


def test_tail_split_at_a_document_boundary_leaves_no_empty_document(open_text):
    train, validation = split_tail(open_text("aaaa\nbbbb", "line"), 0.5)
    assert (texts(train), texts(validation)) == (["aaaa"], ["bbbb"])


def test_tail_split_of_a_manifest_keeps_lines_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    train, validation = split_tail(open_source(SourceConfig(name="s", path=str(tmp_path / "a.jsonl"))), 0.5)
    assert (texts(train), texts(validation)) == (["a", "b"], ["c"])


def test_text_too_small_for_a_tail_is_refused(open_text):
    with pytest.raises(UserError, match="too small to cut its last 10% off"):
        split_tail(open_text("é"), 0.1)


def test_configured_validation_is_taken_whole(tmp_path):
    (tmp_path / "t.txt").write_text("train")
    (tmp_path / "v.txt").write_text("valid")
    sources = [SourceConfig(name=name, path=str(tmp_path / f"{name}.txt")) for name in "tv"]
    train, validation = open_splits(DataConfig(train=(sources[0],), validation=(sources[1],)), seed=0)
    assert (texts(train[0]), texts(validation[0])) == (["train"], ["valid"])


def config_over_one_file(tmp_path, **names: list[str]) -> DataConfig:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"document {i}" for i in range(40)))
    sources = {
        key: tuple(SourceConfig(name=name, path=str(path), document_separator="blank_line") for name in value)
        for key, value in names.items()
    }
    return DataConfig(**sources)


@pytest.mark.parametrize("names", [{"train": ["a"], "validation": ["b"]}, {"train": ["a", "b"]}])
def test_text_that_is_trained_on_and_scored_is_refused(tmp_path, names):
    with pytest.raises(UserError, match=r"text\.txt: documents of source '.' are validation"):
        open_splits(config_over_one_file(tmp_path, **names), seed=0)


@pytest.mark.parametrize("seed", range(4))  # either name may be drawn for validation
def test_text_that_a_link_names_a_second_time_is_refused(tmp_path, seed):
    (tmp_path / "b.txt").write_text("a document")
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    with pytest.raises(UserError, match=r"b\.txt: documents of source 's' are validation and, in source 's', training"):
        open_splits(DataConfig(train=(SourceConfig(name="s", path=str(tmp_path)),)), seed)


def test_overlap_inside_a_longer_training_document_is_refused(tmp_path):
    """One source takes the file whole, the other by lines: a validation line is far inside the training span."""
    (tmp_path / "a.txt").write_text("\n".join(f"document {i}" for i in range(40)))
    train = (SourceConfig(name="whole", path=str(tmp_path)),)
    held_out = (SourceConfig(name="held out", path=str(tmp_path / "a.txt"), document_separator="line"),)
    with pytest.raises(UserError, match="'held out' are validation and, in source 'whole', training"):
        open_splits(DataConfig(train=train, validation=held_out), seed=0)


def test_the_two_parts_of_one_source_do_not_overlap(tmp_path):
    train, validation = open_splits(config_over_one_file(tmp_path, train=["a"]), seed=0)
    assert len(train[0]) + len(validation[0]) == 40


def test_pydoc_topics_of_validation_do_not_stand_in_training():
    def long_lines(corpora) -> list[str]:
        texts = [corpus[i].segments[0].text for corpus in corpora for i in range(len(corpus))]
        return [line.strip() for text in texts for line in text.splitlines() if len(line.strip()) > 60]

    config = DataConfig(train=(SourceConfig(name="pydoc", path="pydoc"),))
    for seed in range(3):
        train, validation = (long_lines(corpora) for corpora in open_splits(config, seed))
        shared = sum(len(line) for line in validation if line in set(train))
        assert shared < 0.02 * sum(map(len, validation))
