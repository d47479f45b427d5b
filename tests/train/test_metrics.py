import json
import logging
import sys

import pytest

from ernie5.train.metrics import MetricsLog, read_metrics


def train_record(step, **more):
    return {"kind": "train", "step": step, "loss": 1.0 / step, **more}


def write(run_dir, *records):
    log = MetricsLog(run_dir)
    for record in records:
        log.write(record)
    log.close()
    return run_dir / "metrics.jsonl"


def test_records_come_back_in_order_with_their_text(tmp_path):
    records = [train_record(1), {"kind": "sample", "step": 1, "prompt": "", "text": "日本 \n\u2028 \ud800 é"}]
    assert read_metrics(write(tmp_path, *records)) == records


def test_a_record_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(train_record(1))
    assert read_metrics(log.path) == [train_record(1)]
    log.close()


def test_a_later_log_appends(tmp_path):
    write(tmp_path, train_record(1))
    assert read_metrics(write(tmp_path, train_record(2))) == [train_record(1), train_record(2)]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = write(tmp_path, train_record(1, grad_norm=float("nan"), entropy=[1.0, float("inf")], members={"a": -1e999}))
    line = path.read_text()
    assert json.loads(line, parse_constant=pytest.fail)["entropy"] == [1.0, None]
    assert json.loads(line)["members"] == {"a": None}


def test_a_half_written_line_is_dropped_when_the_log_goes_on(tmp_path):
    path = write(tmp_path, train_record(1))
    with open(path, "a") as file:
        file.write('{"kind": "tra')
    assert read_metrics(path) == [train_record(1)]
    assert read_metrics(write(tmp_path, train_record(2))) == [train_record(1), train_record(2)]


def test_truncation_drops_later_steps_and_keeps_what_has_no_step(tmp_path):
    run = {"kind": "run", "device": "cpu"}
    write(tmp_path, run, *(train_record(step) for step in (1, 2, 3)))
    log = MetricsLog(tmp_path)
    log.truncate_after(2)
    log.write(train_record(3, again=True))
    log.close()
    assert read_metrics(log.path) == [run, train_record(1), train_record(2), train_record(3, again=True)]


def test_a_missing_file_has_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_without_visualdl_one_line_says_so_and_the_log_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    caplog.set_level(logging.INFO)
    log = MetricsLog(tmp_path, visualdl=True)
    log.write(train_record(1))
    log.close()
    assert [record.message for record in caplog.records if "VisualDL is not installed" in record.message]
    assert len(caplog.records) == 1
    assert read_metrics(log.path) == [train_record(1)]


def test_visualdl_gets_the_numbers_by_path(tmp_path, monkeypatch):
    scalars = []

    class Writer:
        def __init__(self, logdir):
            self.logdir = logdir

        def add_scalar(self, *scalar):
            scalars.append(scalar)

        def close(self):
            scalars.append("closed")

    monkeypatch.setitem(sys.modules, "visualdl", type(sys)("visualdl"))
    sys.modules["visualdl"].LogWriter = Writer
    log = MetricsLog(tmp_path, visualdl=True)
    log.write({"kind": "eval", "step": 5, "loss": 2, "complete": True, "members": {"half": {"loss": 3.0}}, "load": [1]})
    log.write({"kind": "run", "device": "cpu"})
    log.close()
    assert scalars == [("eval/loss", 2.0, 5), ("eval/members/half/loss", 3.0, 5), "closed"]


def test_visualdl_writes_a_log_of_its_own(tmp_path):
    pytest.importorskip("visualdl")
    log = MetricsLog(tmp_path, visualdl=True)
    log.write(train_record(1))
    log.close()
    assert any(path.stat().st_size for path in (tmp_path / "vdl_log").iterdir())
