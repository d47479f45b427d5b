"""The loader: the same rows whoever encodes them, and after every resume."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from ernie5.config.schema import DataConfig, SourceConfig
from ernie5.data.loader import Loader
from ernie5.data.sources import open_source
from ernie5.errors import UserError
from ernie5.modality.unified import TokenKind, UnifiedSequence
from tests.data.tiny_tokenizer import FIRST, SlowTokenizer, TinyTokenizer


@pytest.fixture
def data(tmp_path):
    """A manifest of short samples and a folder of texts, one of them long enough to be cut."""
    lines = [json.dumps({"text": f"sample {i} " * (i % 7)}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "long.txt").write_text("".join(f"line {i}\n" for i in range(400)))
    (tmp_path / "texts" / "short.txt").write_text("short")
    sources = (
        SourceConfig(name="chat", path=str(tmp_path / "a.jsonl"), weight=2.0),
        SourceConfig(name="texts", path=str(tmp_path / "texts"), weight=1.0),
    )
    return DataConfig(train=sources, num_workers=0, prefetch_batches=2)


def open_loader(config, tokenizer=None, max_seq_len=48, bpe_dropout=0.1, seed=11):
    corpora = [open_source(source) for source in config.train]
    return Loader(
        corpora,
        tokenizer or TinyTokenizer(),
        config,
        max_seq_len=max_seq_len,
        longest_seq_len=64,
        seed=seed,
        bpe_dropout=bpe_dropout,
    )


def equal(a: UnifiedSequence, b: UnifiedSequence) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def test_rows_are_stacked_and_full(data):
    batch = open_loader(data).next_rows(3)
    assert batch.input_ids.shape == (3, 48) and batch.mask_rows.shape == (3, 48, 2)
    assert (batch.token_kind == TokenKind.TEXT).all()


def test_without_packing_rows_hold_the_same_tokens_one_sample_each(data):
    packed, alone = open_loader(data).next_rows(9), open_loader(replace(data, packing=False)).next_rows(40)
    assert packed.document_ids.max() > 0 and alone.document_ids.max() == 0
    tokens = [rows.input_ids[rows.document_ids >= 0] for rows in (packed, alone)]
    shorter = min(map(len, tokens))
    assert shorter > 300 and np.array_equal(tokens[0][:shorter], tokens[1][:shorter])


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_rows_do_not_depend_on_the_number_of_workers(data, num_workers):
    alone = open_loader(data)
    with open_loader(replace(data, num_workers=num_workers), SlowTokenizer()) as parallel:
        for num_rows in (1, 2, 5, 2, 8):
            assert equal(alone.next_rows(num_rows), parallel.next_rows(num_rows))
            assert alone.state_dict() == parallel.state_dict()


def test_resume_repeats_the_rows_that_would_have_come(data):
    rng = np.random.default_rng(0)
    loader = open_loader(data)
    states, batches = [], []
    for _ in range(60):
        states.append(json.dumps(loader.state_dict()))
        batches.append(loader.next_rows(2))
    for start in rng.integers(0, 55, 12):
        resumed = open_loader(data)
        resumed.load_state_dict(json.loads(states[start]))
        assert all(equal(resumed.next_rows(2), batch) for batch in batches[start : start + 5])


def test_resume_with_another_number_of_workers_goes_on_identically(data):
    with open_loader(replace(data, num_workers=2)) as first:
        first.next_rows(7)
        state = first.state_dict()
        expected = [first.next_rows(3) for _ in range(4)]
    resumed = open_loader(data)
    resumed.load_state_dict(state)
    assert all(equal(resumed.next_rows(3), batch) for batch in expected)


def test_state_can_be_loaded_into_a_loader_that_has_run_ahead(data):
    with open_loader(replace(data, num_workers=1)) as loader:
        state = loader.state_dict()
        expected = [loader.next_rows(4) for _ in range(3)]
        loader.load_state_dict(state)
        assert all(equal(loader.next_rows(4), batch) for batch in expected)


def test_how_rows_are_grouped_does_not_change_them(data):
    one, many = open_loader(data), open_loader(data)
    ids = np.concatenate([one.next_rows(n).input_ids for n in (1, 3, 2)])
    assert np.array_equal(many.next_rows(6).input_ids, ids)


def test_next_stage_goes_on_with_the_next_token(data):
    short, long = open_loader(data), open_loader(data, max_seq_len=64)
    before = short.next_rows(4).input_ids.ravel().tolist()
    short.max_seq_len = 64
    resumed = open_loader(data, max_seq_len=64)
    changed = short.next_rows(2)
    assert changed.input_ids.shape == (2, 64)
    # The same stream, cut elsewhere. An end mark that was predicted at a cut is left out, so compare all other tokens.
    stream = [token for token in before + changed.input_ids.ravel().tolist() if token >= FIRST]
    expected = [token for token in long.next_rows(6).input_ids.ravel().tolist() if token >= FIRST]
    assert stream[: len(expected)] == expected[: len(stream)]
    resumed.load_state_dict(short.state_dict())
    assert equal(resumed.next_rows(2), short.next_rows(2))


def test_every_document_is_seen_in_an_epoch(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"<{i}>" for i in range(30)))
    source = SourceConfig(name="s", path=str(tmp_path / "a.txt"), document_separator="line")
    loader = open_loader(DataConfig(train=(source,), num_workers=0), bpe_dropout=0.0)
    text = ""
    while loader.state_dict()["next_sample"] < 30:
        text += TinyTokenizer().decode(loader.next_rows(1).input_ids.ravel().tolist())
    assert all(f"<{i}>" in text for i in range(30))


def test_other_seed_gives_other_rows(data):
    assert not equal(open_loader(data, seed=1).next_rows(4), open_loader(data, seed=2).next_rows(4))


def test_dropout_gives_fresh_ids_to_a_document_in_each_epoch(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}')
    config = DataConfig(train=(SourceConfig(name="s", path=str(tmp_path / "a.jsonl")),), num_workers=0)
    ids = open_loader(config, max_seq_len=60).next_rows(1).input_ids[0]
    drawn = [ids[i + 1] for i in np.flatnonzero(ids[:-1] == TinyTokenizer.bos_id)]
    assert len(set(drawn)) == len(drawn) == 10


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_lines_are_left_out_and_counted_when_asked(tmp_path, num_workers):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\nx\n{"text": "c"}\n')
    source = SourceConfig(name="s", path=str(tmp_path / "a.jsonl"))
    config = DataConfig(train=(source,), bad_line="skip", num_workers=num_workers)
    with open_loader(config, bpe_dropout=0.0, max_seq_len=3) as loader:
        text = TinyTokenizer().decode(loader.next_rows(8).input_ids.ravel().tolist())
        # Row 8 ends with the fourth epoch's second good line; bad lines after it are not yet met.
        assert text.count("a") == text.count("c") == 4
        assert loader.state_dict()["num_skipped"] == loader.num_skipped
        assert 6 <= loader.num_skipped <= 8


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_line_is_the_same_user_error_from_a_worker(tmp_path, num_workers):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 20 + '{"txt": "b"}\n')
    config = DataConfig(train=(SourceConfig(name="s", path=str(tmp_path / "a.jsonl")),), num_workers=num_workers)
    with open_loader(config) as loader, pytest.raises(UserError, match=r'a.jsonl:21: unknown key "txt": did you mean'):
        for _ in range(30):
            loader.next_rows(1)


def test_loader_stands_where_it_stood_after_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 20 + '{"txt": "b"}\n')
    config = DataConfig(train=(SourceConfig(name="s", path=str(tmp_path / "a.jsonl")),), num_workers=0)
    loader = open_loader(config)
    before = loader.state_dict()
    with pytest.raises(UserError):
        loader.next_rows(100)
    assert loader.state_dict() == before


def test_bad_line_is_reported_once_not_in_every_epoch(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nx\n')
    config = DataConfig(train=(SourceConfig(name="s", path=str(tmp_path / "a.jsonl")),), bad_line="skip", num_workers=0)
    loader = open_loader(config)
    loader.next_rows(5)
    assert loader.num_skipped > 5
    assert caplog.text.count("left out: ") == 1


def test_corpus_of_bad_lines_alone_ends_in_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\ny\n")
    config = DataConfig(train=(SourceConfig(name="s", path=str(tmp_path / "a.jsonl")),), bad_line="skip", num_workers=0)
    with pytest.raises(UserError, match="nothing but malformed lines"):
        open_loader(config).next_rows(1)


def test_text_longer_than_the_row_is_an_error_when_asked(data):
    config = replace(data, too_long="error")
    with pytest.raises(UserError, match=r"tokens, but max_seq_len of the stage is 48"):
        open_loader(config, bpe_dropout=0.0).next_rows(40)


def test_changed_data_is_refused_on_resume(data, tmp_path):
    state = open_loader(data).state_dict()
    (tmp_path / "a.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(UserError, match=r"chat.documents was 40 and is 1"):
        open_loader(data).load_state_dict(state)


def test_changed_seed_is_refused_on_resume(data):
    with pytest.raises(UserError, match=r"seed was 11 and is 12"):
        open_loader(data, seed=12).load_state_dict(open_loader(data).state_dict())


@pytest.mark.parametrize("change", ["order", "dropout", "places"])
def test_data_that_is_no_longer_the_same_is_refused(data, tmp_path, change):
    state = open_loader(data).state_dict()
    dropout = 0.1
    if change == "order":
        data = replace(data, train=data.train[::-1])
    elif change == "dropout":
        dropout = 0.2
    else:  # as many documents and bytes, cut at other places
        lines = (tmp_path / "a.jsonl").read_text().splitlines()
        (tmp_path / "a.jsonl").write_text("\n".join(lines[::-1]))
    with pytest.raises(UserError, match="has changed"):
        open_loader(data, bpe_dropout=dropout).load_state_dict(state)
