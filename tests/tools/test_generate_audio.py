"""tools/generate.py with sounds, on a small model of random weights that sees, draws, hears and speaks."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image as Picture

from ernie5.data.sounds import read_sound
from ernie5.model.folder import save_pretrained
from tests.audio_models import FRAME, RATE, audio_model, audio_tokenizer, noise_sound, speaker_encoder
from tests.runs import ROOT
from tests.tools.test_generate_media import TEXT_MODEL
from tests.vision_models import noise_picture, text_tokenizer, vision_config, vision_tokenizer


@pytest.fixture(scope="module")
def tokenizer_dirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    networks = {
        "text": text_tokenizer(),
        "vision": vision_tokenizer(),
        "audio": audio_tokenizer(),
        "speaker": speaker_encoder(),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    return [folder / name for name in networks]


@pytest.fixture(scope="module")
def model_dir(tokenizer_dirs):
    model = audio_model(TEXT_MODEL, vision=vision_config())
    return save_pretrained(model, tokenizer_dirs[0].parent / "whole", *tokenizer_dirs)


def generate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def samples_of(path):
    return read_sound(str(path), RATE, 100.0)


def test_speech_is_written_behind_all_that_a_prompt_can_hold(model_dir, tmp_path):
    heard, voices = noise_sound(tmp_path, 3), [noise_sound(tmp_path, 5, seed=seed) for seed in (1, 2)]
    taken = ["--audio", heard, "--image", noise_picture(tmp_path)]
    sounds = []
    for number, voice in enumerate(voices):
        options = ["--prompt", f"It <speaker:{voice}>", "--code-temperature", 0, "--code-guidance", 1]
        output = tmp_path / f"{number}.wav"
        result = generate(model_dir, *taken, *options, "--max-seconds", 0.8, "--speak", "--output", output)
        assert result.returncode == 0 and result.stderr == f"spoken: {output}\n"
        sounds.append(samples_of(output))
        assert len(sounds[-1]) % FRAME == 0 and 0 < len(sounds[-1]) <= 10 * FRAME
    assert not np.array_equal(*sounds)  # the voices differ


def test_what_is_heard_is_answered_in_text_or_drawn(model_dir, tmp_path):
    texts = []
    for seed in (1, 2):
        heard = ["--audio", noise_sound(tmp_path, 4, seed=seed)]
        result = generate(model_dir, *heard, "--temperature", 0, "--max-new-tokens", 8)
        assert result.returncode == 0, result.stderr
        texts.append(result.stdout)
    assert texts[0] != texts[1]
    result = generate(model_dir, *heard, "--draw", "image", "--output", tmp_path / "a.png")
    assert result.returncode == 0, result.stderr
    with Picture.open(tmp_path / "a.png") as picture:
        assert picture.size == (8, 8)


def test_media_that_the_model_begins_by_itself_are_written_with_numbers(tokenizer_dirs, tmp_path):
    model = audio_model(TEXT_MODEL, vision=vision_config())
    norm, words = model.decoder.norm.weight, model.text.embed_tokens.weight
    norm.set_value(np.eye(1, 32, dtype=np.float32)[0])  # one dim is left, whose sign tells the two marks apart
    marks = [text_tokenizer().special_ids[name] for name in ("<boa>", "<boi>")]
    rows = words.numpy()
    rows[marks, 0] = 10, -10
    words.set_value(paddle.to_tensor(rows))
    folder = save_pretrained(model, tmp_path / "eager", *tokenizer_dirs)
    options = ["--temperature", 0, "--max-new-tokens", 8, "--max-seconds", 0.4]
    result = generate(folder, "--prompt", "Draw", *options, "--output", tmp_path / "a.wav")
    assert result.returncode == 0 and result.stdout == "Draw\n", result.stderr
    found = sorted(path.name for path in tmp_path.glob("a_*"))
    assert len(found) == 8 and {name.split(".")[1] for name in found} == {"png", "wav"}
    assert "something was spoken here: give --output FILE" in generate(folder, "--prompt", "Draw", *options).stderr


def test_folder_without_what_hears_answers_text_but_does_not_hear_or_speak(tokenizer_dirs, tmp_path):
    folder = save_pretrained(audio_model(TEXT_MODEL), tmp_path / "model", tokenizer_dirs[0])
    assert generate(folder, "--prompt", "It", "--max-new-tokens", 2).returncode == 0
    for options in (["--speak", "--output", tmp_path / "a.wav"], ["--audio", noise_sound(tmp_path)]):
        result = generate(folder, *options)
        assert result.returncode == 2 and "audio_tokenizer/" in result.stderr and "Traceback" not in result.stderr


def test_folder_without_a_speaker_encoder_takes_no_voice(tokenizer_dirs, tmp_path):
    text, _, audio, _ = tokenizer_dirs
    folder = save_pretrained(audio_model(TEXT_MODEL), tmp_path / "model", text, audio_tokenizer_dir=audio)
    result = generate(folder, "--speaker", noise_sound(tmp_path))
    assert result.returncode == 2 and "speaker_encoder/" in result.stderr and "Traceback" not in result.stderr
