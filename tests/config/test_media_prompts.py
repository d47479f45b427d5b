"""Rules of the prompts with media and of the sampling of speech."""

from dataclasses import replace

import pytest

from ernie5.config import audio_rules, vision_rules
from ernie5.config.schema import AudioConfig, AudioSamplingConfig, GenerationConfig, MediaPromptConfig
from tests.vision_models import vision_config


class _Config:
    """The parts of a configuration that these rules read."""

    def __init__(self, model, **generation):
        self.model, self.generation = model, GenerationConfig(**generation)


@pytest.fixture
def model(tiny_model_config):
    return replace(tiny_model_config, audio=AudioConfig(num_codebooks=2, speaker_dim=8), vision=vision_config())


def faults(model, **generation):
    config = _Config(model, **generation)
    rules = (
        audio_rules.audio_sampling_is_in_range,
        audio_rules.sounding_prompts_fit_the_model,
        vision_rules.visual_prompts_fit_the_model,
    )
    return [fault for rule in rules if (fault := rule(config))]


PROMPTS = {
    "vision": [{"image": "a.png"}, {"video": "a.gif"}, {"answer": "image"}, {"answer": "video", "num_frames": 3}],
    "audio": [{"audio": "a.wav"}, {"speaker": "a.wav"}, {"answer": "audio"}],
}


@pytest.mark.parametrize("section, fields", [(name, fields) for name, all_of in PROMPTS.items() for fields in all_of])
def test_prompt_needs_the_section_of_its_media(model, section, fields):
    prompts = (MediaPromptConfig(text="a"), MediaPromptConfig(**fields))
    assert faults(model, media_prompts=prompts) == []
    (fault,) = faults(replace(model, **{section: None}), media_prompts=prompts)
    assert fault == f"generation.media_prompts.1: the model has no {section} section: leave this prompt out"


def test_voice_needs_a_model_that_takes_voices(model):
    deaf = replace(model, audio=replace(model.audio, speaker_dim=0))
    (fault,) = faults(deaf, media_prompts=(MediaPromptConfig(speaker="a.wav"),))
    assert fault.startswith("generation.media_prompts.0.speaker is set, but model.audio.speaker_dim is 0")


@pytest.mark.parametrize(
    "field, value", [("temperature", -0.1), ("top_p", 0.0), ("top_k", -1), ("guidance", -1.0), ("max_seconds", 0.0)]
)
def test_sampling_of_speech_is_in_range(model, field, value):
    (fault,) = faults(model, audio=AudioSamplingConfig(**{field: value}))
    assert fault.startswith(f"generation.audio.{field} is {value}: must")


def test_size_and_frames_of_a_drawing_are_checked(model):
    prompts = (MediaPromptConfig(answer="image", height=9, width=9), MediaPromptConfig(num_frames=2))
    (fault,) = faults(model, media_prompts=prompts)
    assert "media_prompts.0.height and width are 9 and 9: the model draws 8 x 8, 8 x 16" in fault
    assert "media_prompts.1.num_frames is 2: only what is drawn as a video has more than 1" in fault
