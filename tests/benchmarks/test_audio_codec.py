"""Codecs are measured with the bits that they take and without their delay, beside each level of a tokenizer."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ernie5.analysis.spoken_digits import NETWORK, SYMBOLS, SpeechJudge
from ernie5.config.audio_networks import RecogniserConfig
from ernie5.data.sounds import write_sound
from ernie5.errors import UserError
from ernie5.tokenizers.audio.recogniser import Recogniser
from tests.audio_models import CODES, LEVELS, RATE, audio_tokenizer

pytest.importorskip("av")
pytest.importorskip("soxr")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def codecs(monkeypatch):
    return load("speech_codecs", monkeypatch)


def voiced(seconds: float = 1.0, rate: int = 8_000) -> np.ndarray:
    """A chirp of harmonics: each instant has its own sound, so that a lag shows."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 2 * np.pi * (110 * time + 40 * time**2)
    return (0.2 * sum(np.sin(k * pitch) / k for k in range(1, 6))).astype(np.float32)


def codec_of(codecs, name: str):
    codec = next(codec for codec in codecs.CODECS if codec.name.startswith(name))
    if not codecs.is_installed(codec):
        pytest.skip(f"this build of PyAV has no {name}")
    return codec


@pytest.mark.parametrize("lag", [-700, 0, 1234])
def test_lag_of_shifted_noise_is_found(codecs, lag: int):
    noise = np.random.default_rng(0).standard_normal(20_000)
    late = np.roll(noise, lag)
    assert codecs.find_lag([late], [noise]) == lag
    np.testing.assert_array_equal(codecs.shift(late, lag)[2_000:9_000], noise[2_000:9_000])


def test_lag_is_that_of_all_clips_however_loud(codecs):
    first, second, third = np.random.default_rng(0).standard_normal([3, 20_000])
    late = [np.roll(first, 300), np.roll(second, 300), np.roll(50 * third, 900)]
    assert codecs.find_lag(late, [first, second, 50 * third]) == 300


@pytest.mark.parametrize("name", ["Opus, 12", "AMR-NB, 7.95", "G.723.1"])
def test_codec_gives_the_sound_back_in_place(codecs, name: str):
    sound = voiced()
    (output,) = codecs.transmit(codec_of(codecs, name), [sound], 8_000).outputs
    assert output.shape == sound.shape
    shifts = range(-150, 151)  # more than a period of the pitch both ways
    similarity = [np.corrcoef(np.roll(output, shift)[150:-150], sound[150:-150])[0, 1] for shift in shifts]
    assert max(similarity) > 0.5
    assert abs(shifts[int(np.argmax(similarity))]) <= 1


def test_bits_of_amr_are_those_of_its_packets(codecs):
    sent = codecs.transmit(codec_of(codecs, "AMR-NB, 4.75"), [voiced(), voiced()], 8_000)
    packet = 8 * (1 + 12)  # its header, and 95 bits in whole bytes, each 20 ms (RFC 4867)
    assert sent.bits in (2 * 50 * packet, 2 * 51 * packet)  # the delay may take one packet more
    assert 0 < sent.delay < 0.03


def test_codec_that_is_not_built_in_is_absent(codecs):
    unknown = codecs.Codec(name="none", encoder="none", decoder="none", bit_rate=1, rates=(8_000,))
    assert not codecs.is_installed(unknown)


def measured(monkeypatch, tmp_path: Path, *options: str) -> str:
    """The page of a run on two speakers' digits, one of them held out."""
    for speaker, seconds in (("ann", 0.5), ("bob", 0.4)):
        for digit in range(2):
            write_sound(tmp_path / f"{digit}_{speaker}_0.wav", voiced(seconds + 0.1 * digit), 8_000)
    folder, page = tmp_path / "tokenizer", tmp_path / "docs" / "page.md"
    audio_tokenizer().save_pretrained(folder)
    page.parent.mkdir()
    arguments = ["--tokenizer", str(folder), "--speech", str(tmp_path), "--hold-out", "bob", "--output", str(page)]
    monkeypatch.setattr(sys, "argv", ["audio_codec.py", *arguments, *options])
    load("audio_codec", monkeypatch).main()
    return page.read_text()


def test_page_has_a_row_for_each_level_and_codec(monkeypatch, tmp_path: Path, codecs):
    page = measured(monkeypatch, tmp_path)
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    names = [row[0] for row in rows]
    assert sum("tokenizer, " in name for name in names) == LEVELS
    assert sum(name.startswith("| Opus") for name in names) == 3
    assert "2 clips, 0.9 s" in page and "all by bob" in page and "not measured" in page
    first = float(next(row[1] for row in rows if "tokenizer, 1 of" in row[0]).replace(",", ""))
    frames = 5 + 7  # of 80 ms in 0.4 s and 0.5 s
    assert first == round(frames * np.log2(CODES) / 0.9)


def test_pictures_are_drawn_and_linked_from_the_page(monkeypatch, tmp_path: Path):
    pytest.importorskip("matplotlib")
    judge = SpeechJudge(Recogniser(RecogniserConfig(network=NETWORK, symbols=SYMBOLS))).save(tmp_path / "judge")
    images = tmp_path / "images"
    page = measured(monkeypatch, tmp_path, "--judge", str(judge), "--images", str(images), "--num", "1")
    assert {path.name for path in images.iterdir()} == {"audio_codec_curves.png", "audio_codec_spectrograms.png"}
    assert "](../images/audio_codec_curves.png)" in page
    assert "not measured" not in page


def test_index_gives_the_rows_of_its_split_and_source(monkeypatch, tmp_path: Path):
    row = {"language": "en", "speaker": "a", "split": "test", "source": "recorded"}
    rows = [
        row | {"sound": "a.wav", "text": "four two"},
        row | {"sound": "b.wav", "text": "hello"},
        row | {"sound": "c.wav", "text": "one", "source": "espeak"},
        row | {"sound": "d.wav", "text": "one", "split": "train"},
    ]
    index = tmp_path / "sounds.jsonl"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = load("audio_codec", monkeypatch)
    chosen = argparse.Namespace(speech=str(index), split="test", source="recorded")
    assert benchmark.of_index(chosen) == [(str(tmp_path / "a.wav"), "42"), (str(tmp_path / "b.wav"), "")]
    chosen.source = "telephone"
    with pytest.raises(UserError, match='source "telephone"'):
        benchmark.of_index(chosen)


def test_tokenizers_of_two_rates_are_refused(monkeypatch):
    benchmark = load("audio_codec", monkeypatch)
    own = audio_tokenizer()
    other = SimpleNamespace(config=SimpleNamespace(sample_rate=2 * RATE))
    with pytest.raises(UserError, match="several rates"):
        benchmark.common_rate({"a": own, "b": other})
