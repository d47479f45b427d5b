"""tools/train.py as its user meets it: the errors, each one sentence with exit status 2 and nothing lost."""

import json
import resource
import subprocess
import sys

from tests.runs import ROOT, SHORT, TINY, losses, overrides, train

LIMIT_BYTES = 300_000  # of a file: less than the tiny model's weights


def tool(run_dir, *arguments, config=TINY, limit_file_size=False) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(config), *arguments]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))) if limit_file_size else None
    options = overrides([*SHORT, f"train.output_dir={run_dir}"])
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT, preexec_fn=limit)


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    sentence = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in sentence, sentence


def source(path, separator="file") -> list[str]:
    return overrides(
        [f"data.train.0.path={path}", "data.train.0.name=mine", f"data.train.0.document_separator={separator}"]
    )


def test_an_unknown_key_names_the_nearest_one(tmp_path):
    assert_refused(tool(tmp_path, "-o", "train.max_stpes=3"), "max_stpes", "max_steps")


def test_a_wrong_type_is_named(tmp_path):
    assert_refused(tool(tmp_path, "-o", "train.max_steps=many"), "train.max_steps", "many")


def test_a_missing_run_file_is_named(tmp_path):
    assert_refused(tool(tmp_path, config=tmp_path / "none.yaml"), "none.yaml")


def test_a_missing_corpus_is_named(tmp_path):
    assert_refused(tool(tmp_path / "run", *source(tmp_path / "none.jsonl")), "none.jsonl")


def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert_refused(tool(tmp_path / "run", *source(tmp_path / "empty.txt")), "empty.txt")


def test_a_malformed_line_is_named_with_its_number(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "fine"}\n{"text": "fine too"}\n{"text": \n')
    assert_refused(tool(tmp_path / "run", *source(tmp_path / "data.jsonl")), "data.jsonl:3")


def test_a_sample_longer_than_the_stage_is_named_when_it_may_not_be_split(tmp_path):
    lines = [json.dumps({"text": "word " * (4 if i else 400)}) for i in range(12)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    result = tool(tmp_path / "run", *source(tmp_path / "data.jsonl"), "-o", "data.too_long=error")
    assert_refused(result, "data.jsonl:1", "max_seq_len", "64")


def test_media_wait_for_their_model(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    text = {"type": "text", "text": "what is this?"}
    image = {"segments": [{"type": "image", "source": "a.png", "role": "understand"}, text]}
    (tmp_path / "data.jsonl").write_text("\n".join([json.dumps(image)] * 4))
    assert_refused(tool(tmp_path / "run", *source(tmp_path / "data.jsonl")), "no vision")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path):
    train(tmp_path / "run", "train.max_steps=1")
    smaller = overrides([f"tokenizer.path={tmp_path / 'run' / 'tokenizer'}", "model.vocab_size=400"])
    assert_refused(tool(tmp_path / "other", *smaller), "model.vocab_size", "400")


def test_a_checkpoint_of_another_model_or_vocabulary_is_refused_and_left_alone(tmp_path):
    train(tmp_path / "run", "train.max_steps=2")
    before = losses(tmp_path / "run")
    result = tool(tmp_path / "run", "--resume", "auto", "-o", "model.hidden_size=32")
    assert_refused(result, "hidden_size", "64", "32")
    (tmp_path / "other.txt").write_text("\n\n".join(f"another text, number {i}" for i in range(200)))
    other = ["train.max_steps=1", f"data.train.0.path={tmp_path / 'other.txt'}"]
    train(tmp_path / "other", *other, "data.train.0.document_separator=blank_line")
    vocabulary = overrides([f"tokenizer.path={tmp_path / 'other' / 'tokenizer'}"])
    assert_refused(tool(tmp_path / "run", "--resume", "auto", *vocabulary), "vocabulary")
    assert losses(tmp_path / "run") == before


def test_resume_from_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert_refused(tool(tmp_path, "--resume", "auto"), str(tmp_path / "checkpoints"))


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    train(tmp_path, "train.max_steps=2")
    result = tool(tmp_path, "--resume", "auto", limit_file_size=True)
    assert_refused(result, "no space left")
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_00000002"]
    train(tmp_path, "train.max_steps=4", resume="auto")
    assert losses(tmp_path)[-1][0] == 4


def test_an_altered_shard_is_refused_by_name_and_the_one_before_is_offered(tmp_path):
    train(tmp_path, "train.max_steps=4", "train.save_steps=2")
    shard = tmp_path / "checkpoints" / "step_00000004" / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert_refused(tool(tmp_path, "--resume", str(shard.parent)), "model.safetensors", "step_00000002")


def test_bfloat16_on_the_cpu_is_refused(tmp_path):
    assert_refused(tool(tmp_path, "-o", "train.precision=bfloat16"), "train.precision", "bfloat16")
