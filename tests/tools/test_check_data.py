"""The command that looks at a corpus: counts, causes and exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/check_data.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "h\\u00e9llo"}\n{"src": "a", "tgt": "b"}\n', encoding="utf-8")
    return path


def test_counts_what_a_manifest_holds(manifest):
    result = check(manifest)
    assert result.returncode == 0, result.stderr
    facts = {line[2:14].strip(): line[14:] for line in result.stdout.splitlines()}
    assert facts["documents"] == "2"
    assert facts["segments"] == "3 text"
    assert (facts["characters"], facts["bytes"]) == ("7", "8")
    assert facts["longest"].startswith(f"5 characters, {manifest}:1")


def test_malformed_lines_are_listed_and_exit_with_2(manifest):
    manifest.write_text('{"text": "a"}\n{"txt": "b"}\nx\n')
    result = check(manifest)
    assert result.returncode == 2
    assert f'    {manifest}:2: unknown key "txt": did you mean "text"?' in result.stdout
    assert "2 malformed in all" in result.stderr and "Traceback" not in result.stderr


def test_run_that_skips_bad_lines_is_no_error(manifest):
    manifest.write_text('{"text": "a"}\n{"txt": "b"}\n')
    settings = (f"data.train.0.path={manifest}", "data.bad_line=skip")
    result = check("-c", "configs/run/tiny.yaml", *(part for setting in settings for part in ("-o", setting)))
    assert result.returncode == 0, result.stderr
    assert "malformed   1" in result.stdout


def test_missing_corpus_is_one_sentence_and_exits_with_2():
    result = check("no/such/file.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: source no/such/file.jsonl: no/such/file.jsonl is not a file")
    assert result.stderr.count("\n") == 1


def test_tokens_are_counted_with_a_saved_tokenizer(manifest, tmp_path):
    from ernie5.tokenizers.text import train_tokenizer

    tokenizer = train_tokenizer(["hello world " * 20], vocab_size=310)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    result = check(manifest, "--tokenizer", tmp_path / "tokenizer")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    expected = len(tokenizer.encode("héllo")) + 2 + sum(len(ids) for ids, _ in chat) + 1
    assert f"  tokens      {expected}," in result.stdout


def write_media_manifest(folder, *names):
    """A picture or film a line; a film is looked at 4 times a second."""
    lines = []
    for name in names:
        moving = {"type": "video", "fps": 4} if name.endswith(".gif") else {"type": "image"}
        lines.append(json.dumps({"segments": [{**moving, "source": name, "role": "understand"}]}))
    (folder / "media.jsonl").write_text("\n".join(lines))
    return folder / "media.jsonl"


@pytest.fixture
def media(tmp_path):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "blue", "white")]
    frames[0].save(tmp_path / "a.png")
    frames[0].resize((30, 20)).save(tmp_path / "b.png")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    return tmp_path


def test_pictures_and_films_are_counted_by_file_with_their_sizes(media):
    result = check(write_media_manifest(media, "a.png", "b.png", "a.png", "a.gif"))
    assert result.returncode == 0, result.stderr
    assert "  pictures    2 different, 12 x 8 to 30 x 20 pixels\n" in result.stdout
    assert "  films       1 different, 12 x 8 pixels, 6 frames\n" in result.stdout


def test_media_that_cannot_be_read_are_listed_by_line_and_exit_with_2(media):
    data = (media / "b.png").read_bytes()
    (media / "b.png").write_bytes(data[:-30])
    manifest = write_media_manifest(media, "a.png", "b.png", "a.gif", "b.png")
    result = check(manifest)
    assert result.returncode == 2
    assert "  bad media   2\n" in result.stdout
    for line in (2, 4):
        assert f"    {manifest}:{line}: {media / 'b.png'}: cannot be read as a picture" in result.stdout
    assert result.stderr.startswith(f"error: {manifest}:2: ") and result.stderr.count("\n") == 1


def test_film_longer_than_the_run_allows_is_listed(media):
    manifest = write_media_manifest(media, "a.gif")
    paths = (f"data.{part}.0.path={manifest}" for part in ("train", "validation"))
    settings = (*paths, "model.vision.max_frames=5")
    result = check("-c", "configs/run/digits.yaml", *(part for setting in settings for part in ("-o", setting)))
    assert result.returncode == 2
    assert "more than 5 frames at 4 a second" in result.stderr


def write_sounds(folder):
    from ernie5.data.sounds import write_sound

    write_sound(folder / "a.wav", np.full(4_000, 0.5), 8_000)
    write_sound(folder / "b.wav", np.full(12_000, 0.5), 8_000)
    roles = (("a.wav", "understand"), ("b.wav", "generate"), ("a.wav", "speaker"))
    segments = [{"type": "audio", "source": source, "role": role} for source, role in roles]
    (folder / "sounds.jsonl").write_text(json.dumps({"segments": segments}))
    return folder / "sounds.jsonl"


def test_sounds_are_counted_by_file_with_their_lengths(tmp_path):
    result = check(write_sounds(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "  segments    3 audio\n" in result.stdout
    assert "  sounds      2 different, 0.50 to 1.50 s, 2 s in all\n" in result.stdout


def test_sound_that_was_cut_off_is_listed(tmp_path):
    manifest = write_sounds(tmp_path)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:-9_000])
    result = check(manifest)
    assert result.returncode == 2
    assert f"{manifest}:1: {tmp_path / 'b.wav'}: is cut off" in result.stdout
