"""The samples of a run: what is shown, and the files that are left."""

import numpy as np
import pytest

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, MediaPromptConfig
from ernie5.data.sample import Audio, Text
from ernie5.data.sounds import read_sound, write_sound
from ernie5.inference.ask import answer, speak
from ernie5.inference.show import show
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from tests.audio_models import RATE, audio_coder, audio_model, noise_sound
from tests.vision_models import noise_film, noise_picture, text_tokenizer, vision_config, vision_tokenizer

TEXT = text_tokenizer()
SPEECH = AudioSamplingConfig(temperature=0.0, max_seconds=0.8)


@pytest.fixture
def model(tiny_model_config):
    return audio_model(tiny_model_config, vision=vision_config())


@pytest.fixture(scope="module")
def coders():
    return Coders(VisionCoder(vision_tokenizer()), audio_coder())


def shown(model, coders, folder, *prompts):
    config = GenerationConfig(prompts=(), media_prompts=prompts, max_new_tokens=4, temperature=0.0, audio=SPEECH)
    return show(model, TEXT, coders, config, 0, folder, "step")


def test_sound_that_is_heard_is_answered_and_kept(model, coders, tmp_path):
    file = noise_sound(tmp_path, 4)
    (sample,) = shown(model, coders, tmp_path, MediaPromptConfig(text="It", audio=file))
    prompt = [Audio(file, "understand"), Text("It")]
    config = GenerationConfig(max_new_tokens=4, temperature=0.0)
    assert (sample.prompt, [sample.text]) == ("It", answer(model, TEXT, [prompt], config, coders=coders))
    assert sample.input_file == "step_00_input.wav" and not sample.output_file
    kept = read_sound(str(tmp_path / sample.input_file), RATE, 10.0)
    np.testing.assert_allclose(kept, read_sound(file, RATE, 10.0), atol=1e-4)


def test_speech_in_a_voice_is_written(model, coders, tmp_path):
    file = noise_sound(tmp_path, 4)
    (sample,) = shown(model, coders, tmp_path, MediaPromptConfig(text="It", speaker=file, answer="audio"))
    (expected,) = speak(model, TEXT, coders, [[Audio(file, "speaker"), Text("It")]], SPEECH)
    assert (sample.input_file, sample.output_file, sample.text) == ("step_00_input.wav", "step_00.wav", "")
    write_sound(tmp_path / "expected.wav", expected, RATE)
    assert (tmp_path / sample.output_file).read_bytes() == (tmp_path / "expected.wav").read_bytes()


def test_media_of_every_kind_have_files_of_their_own(model, coders, tmp_path):
    picture, film = noise_picture(tmp_path), noise_film(tmp_path, 3)
    samples = shown(
        model,
        coders,
        tmp_path,
        MediaPromptConfig(image=picture, answer="audio"),
        MediaPromptConfig(video=film, answer="image"),
        MediaPromptConfig(text="It", answer="video", num_frames=3),
        MediaPromptConfig(text="It"),
    )
    files = [(sample.input_file, sample.output_file) for sample in samples]
    assert files == [
        ("step_00_input.png", "step_00.wav"),
        ("step_01_input.gif", "step_01.png"),
        ("", "step_02.gif"),
        ("", ""),
    ]
    assert all((tmp_path / name).stat().st_size for pair in files for name in pair if name)
