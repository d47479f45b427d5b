"""The samples that a run shows of itself: texts, answers about media, drawings, speech."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie5.config.schema import GenerationConfig, MediaPromptConfig, ModelConfig
from ernie5.data.media import read_image, read_video
from ernie5.data.prompts import prompt_segments
from ernie5.data.sounds import read_sound, write_sound
from ernie5.inference.ask import answer, complete, draw, speak
from ernie5.inference.media_files import enlarge, save_media, shrink
from ernie5.inference.request import Sound
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer
from ernie5.train.journal import Shown

SHOWN_SIDE = 128  # pixels that the longer side of a small drawing is enlarged to
MAX_SHOWN_SIDE = 512  # pixels that the longer side of a large photograph is shrunk to


class _Album(NamedTuple):
    """Where the media of a sample are written: files of the run folder that begin with a name."""

    run_dir: Path
    name: str

    def save(self, medium: np.ndarray | Sound, fps: float, suffix: str = "") -> str:
        """The file's name. Pictures and films are of a size to be looked at."""
        if isinstance(medium, Sound):
            file = f"{self.name}{suffix}.wav"
            write_sound(self.run_dir / file, *medium)
            return file
        file = f"{self.name}{suffix}.{'gif' if len(medium) > 1 else 'png'}"
        longest = max(medium.shape[1:3])
        if longest > MAX_SHOWN_SIDE:
            medium = shrink(medium, MAX_SHOWN_SIDE)
        else:
            medium = enlarge(medium, max(1, SHOWN_SIDE // longest))
        save_media(self.run_dir / file, medium, fps)
        return file


def show(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    config: GenerationConfig,
    seed: int,
    run_dir: Path,
    name: str,
) -> list[Shown]:
    """What the model makes of the prompts of `config`. Media are files of the run folder that begin with `name`."""
    texts = complete(model, tokenizer, config.prompts, config, seed)
    shown = [Shown(prompt, text) for prompt, text in zip(config.prompts, texts, strict=True)]
    for i, prompt in enumerate(config.media_prompts):
        album = _Album(run_dir, f"{name}_{i:02d}")
        shown.append(_show(model, tokenizer, coders, prompt, config, seed + i, album))
    return shown


def _show(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompt: MediaPromptConfig,
    config: GenerationConfig,
    seed: int,
    album: _Album,
) -> Shown:
    segments = prompt_segments(prompt)
    shown = Shown(prompt.text, input_file=_copy_input(prompt, model.config, album))
    if prompt.answer == "text":
        (text,) = answer(model, tokenizer, [segments], config, seed, coders=coders)
        return shown._replace(text=text)
    if prompt.answer == "audio":
        (samples,) = speak(model, tokenizer, coders, [segments], config.audio, seed)
        medium = Sound(samples, model.config.audio.sample_rate)
    else:
        resolutions = model.config.vision.resolutions
        size = (prompt.height, prompt.width)
        resolution = next((r for r in resolutions if (r.height, r.width) == size), resolutions[0])
        num_frames = prompt.num_frames if prompt.answer == "video" else 1
        (medium,) = draw(model, tokenizer, coders, [segments], resolution, num_frames, config.vision, seed)
    return shown._replace(output_file=album.save(medium, prompt.fps))


def _copy_input(prompt: MediaPromptConfig, model: ModelConfig, album: _Album) -> str:
    """The first medium of the prompt as a file of the run folder, so that the report stays whole when data move."""
    if prompt.image:
        medium = read_image(prompt.image)
    elif prompt.video:
        medium = read_video(prompt.video, prompt.fps, model.vision.max_frames)
    elif prompt.audio or prompt.speaker:
        rate, longest = model.audio.sample_rate, model.audio.max_seconds
        medium = Sound(read_sound(prompt.audio or prompt.speaker, rate, longest), rate)
    else:
        return ""
    return album.save(medium, prompt.fps, "_input")
