"""tools/generate.py with pictures and films, on a small model of random weights."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image as Picture

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import save_pretrained
from tests.runs import ROOT
from tests.vision_models import noise_film, noise_picture, text_tokenizer, vision_config, vision_model, vision_tokenizer

TEXT_MODEL = ModelConfig(
    name="tiny_test",
    vocab_size=310,
    hidden_size=32,
    num_hidden_layers=2,
    attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
    moe=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    text_tokenizer().save_pretrained(folder / "text")
    vision_tokenizer().save_pretrained(folder / "vision")
    model = vision_model(TEXT_MODEL, vision_config())
    save_pretrained(model, folder / "whole", folder / "text", folder / "vision")
    return folder / "whole"


@pytest.fixture(scope="module")
def text_model_dir(model_dir):
    paddle.seed(0)
    return save_pretrained(Ernie5ForCausalLM(TEXT_MODEL), model_dir.parent / "text_alone", model_dir.parent / "text")


def generate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_picture_is_drawn_at_the_size_asked_for(model_dir, tmp_path):
    options = ["--draw", "image", "--size", "16x8", "--enlarge", 2, "--output", tmp_path / "a.png"]
    result = generate(model_dir, "--prompt", "Draw a seven.", *options)
    assert result.returncode == 0, result.stderr
    with Picture.open(tmp_path / "a.png") as picture:
        assert picture.size == (32, 16)


def test_film_is_drawn_behind_a_film_and_a_picture(model_dir, tmp_path):
    seen = ["--video", noise_film(tmp_path, 2), "--image", noise_picture(tmp_path)]
    options = ["--draw", "video", "--num-frames", 3, "--fps", 5, "--guidance", "1,3", "--output", tmp_path / "f.gif"]
    result = generate(model_dir, *seen, "--prompt", "It moves.", *options)
    assert result.returncode == 0, result.stderr
    with Picture.open(tmp_path / "f.gif") as film:
        assert film.n_frames == 3


def test_media_that_the_model_begins_by_itself_are_written_with_numbers(model_dir, tmp_path):
    model = vision_model(TEXT_MODEL, vision_config())
    norm, words = model.decoder.norm.weight, model.text.embed_tokens.weight
    norm.set_value(np.eye(1, 32, dtype=np.float32)[0])  # one dim is left, whose sign tells the two marks apart
    marks = [text_tokenizer().special_ids[name] for name in ("<boi>", "<bov>")]
    rows = words.numpy()
    rows[marks, 0] = 10, -10
    words.set_value(rows)
    folder = save_pretrained(model, tmp_path / "eager", model_dir.parent / "text", model_dir.parent / "vision")
    options = ["--temperature", 0, "--max-new-tokens", 2]
    result = generate(folder, "--prompt", "Draw", *options, "--output", tmp_path / "a.png")
    assert result.returncode == 0 and result.stdout == "Draw\n", result.stderr
    assert sorted(path.stem for path in tmp_path.glob("a*")) == ["a_1", "a_2"]
    assert "give --output FILE" in generate(folder, *options).stderr


def test_answer_reads_media_wherever_they_are_named(model_dir, tmp_path):
    picture, other = noise_picture(tmp_path, seed=1), noise_picture(tmp_path, seed=2)
    outputs = []
    for first, second in ((picture, other), (other, picture)):
        prompt = f"<image:{first}> is it <image:{second}>?"
        result = generate(model_dir, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 8)
        assert result.returncode == 0 and result.stdout.startswith(prompt), result.stderr
        outputs.append(result.stdout.removeprefix(prompt))
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--draw", "image", "--output", "a.jpg"], 'a.jpg: the ending ".jpg" names no format'),
        (["--draw", "video", "--output", "a.gif", "--fps", "60"], "a.gif: a GIF shows at most 50 frames a second"),
        (["--draw", "video", "--output", "a.png"], "a.png: a .png holds one picture"),
        (["--draw", "image"], "--draw image needs --output"),
        (["--draw", "image", "--output", "a.png", "--size", "9x9"], "--size 9x9: this model draws 8x8, 16x8"),
        (["--draw", "image", "--output", "a.png", "--size", "large"], "give width and height in pixels"),
        (["--draw", "video", "--output", "a.gif", "--num-frames", "1"], "--num-frames is 1: a film has 2 or more"),
        (["--guidance", "much"], "'much' is no guidance"),
        (["--bit-top-p", "0"], "--bit-top-p above 0"),
        (["--draw", "image", "--output", "a.png", "--num-frames", "5"], "--num-frames is of a film"),
        (["--draw", "image", "--output", "a.png", "--enlarge", "1000000"], "--enlarge from 1 to 64"),
        (["--image", ""], "--image and <image:...> need a file's name"),
        (["--speak"], "--speak needs --output"),
        (["--speak", "--draw", "image", "--output", "a.png"], "--draw and --speak make one thing each"),
        (["--speak", "--output", "a.png"], 'a.png: the ending ".png" names no format of sound: use .wav or .flac'),
        (["--output", "a.txt"], 'a.txt: the ending ".txt" names no format'),
        (["--code-top-p", "2"], "--code-top-p above 0"),
        (["--code-guidance", "-1"], "--code-guidance must be a number from 0 on"),
        (["--max-seconds", "0"], "--max-seconds one above 0"),
        (["--speaker", ""], "--speaker and <speaker:...> need a file's name"),
        (["--prompt", "<video:> moves"], "--video and <video:...> need a file's name"),
        (["--image", "nothing.png"], "nothing.png"),
        (["--prompt", "what is <video:nothing.mp4>"], "nothing.mp4"),
    ],
)
def test_mistakes_are_told_in_a_sentence(model_dir, arguments, message):
    result = generate(model_dir, *arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments, missing",
    [
        (["--image", "a.png"], "vision"),
        (["--draw", "image", "--output", "a.png"], "vision"),
        (["--audio", "a.wav"], "audio"),
        (["--speaker", "a.wav"], "audio"),
        (["--speak", "--output", "a.wav"], "audio"),
    ],
)
def test_model_of_text_alone_refuses_media(text_model_dir, arguments, missing):
    result = generate(text_model_dir, *arguments)
    assert result.returncode == 2 and f"has no {missing}" in result.stderr and "Traceback" not in result.stderr


def test_model_folder_without_its_vision_tokenizer_answers_but_does_not_draw(model_dir, tmp_path):
    folder = tmp_path / "model"
    save_pretrained(vision_model(TEXT_MODEL, vision_config()), folder, model_dir.parent / "text")
    result = generate(folder, "--draw", "image", "--output", tmp_path / "a.png")
    assert result.returncode == 2 and "vision_tokenizer" in result.stderr and "Traceback" not in result.stderr
    assert generate(folder, "--image", noise_picture(tmp_path), "--max-new-tokens", 2).returncode == 0
