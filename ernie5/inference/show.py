"""The samples that a run shows of itself: texts, answers about media, drawings."""

from pathlib import Path

import numpy as np

from ernie5.config.schema import GenerationConfig, VisualPromptConfig
from ernie5.data.media import read_image, read_video
from ernie5.data.sample import Image, Segment, Text, Video
from ernie5.inference.complete import complete
from ernie5.inference.draw import draw
from ernie5.inference.media_files import enlarge, save_media, shrink
from ernie5.inference.prompt import answer
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from ernie5.train.trainer import Shown

SHOWN_SIDE = 128  # pixels that the longer side of a small drawing is enlarged to
MAX_SHOWN_SIDE = 512  # pixels that the longer side of a large photograph is shrunk to


def show(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    vision_tokenizer: VisionTokenizer | None,
    config: GenerationConfig,
    seed: int,
    run_dir: Path,
    name: str,
) -> list[Shown]:
    """What the model makes of the prompts of `config`. Drawings are files of the run folder that begin with `name`."""
    texts = complete(model, tokenizer, config.prompts, config, seed)
    shown = [Shown(prompt, text) for prompt, text in zip(config.prompts, texts, strict=True)]
    training = model.training
    model.eval()
    for i, prompt in enumerate(config.visual_prompts):
        shown.append(_show(model, tokenizer, vision_tokenizer, prompt, config, seed + i, run_dir, f"{name}_{i:02d}"))
    if training:
        model.train()
    return shown


def _show(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    vision_tokenizer: VisionTokenizer,
    prompt: VisualPromptConfig,
    config: GenerationConfig,
    seed: int,
    run_dir: Path,
    name: str,
) -> Shown:
    segments = _segments(prompt)
    seen = _copy_seen(prompt, model.config.vision.max_frames, run_dir, name)
    if not prompt.draw:
        (text,) = answer(model, tokenizer, [segments], config, seed)
        return Shown(prompt.text, text, input_file=seen)
    resolutions = model.config.vision.resolutions
    size = (prompt.height, prompt.width)
    resolution = next((r for r in resolutions if (r.height, r.width) == size), resolutions[0])
    num_frames = prompt.num_frames if prompt.draw == "video" else 1
    (frames,) = draw(model, tokenizer, vision_tokenizer, [segments], resolution, num_frames, config.vision, seed)
    return Shown(prompt.text, input_file=seen, output_file=_save(frames, prompt.fps, run_dir, name))


def _copy_seen(prompt: VisualPromptConfig, max_frames: int, run_dir: Path, name: str) -> str:
    """The medium of the prompt as a file of the run folder, so that the report stays whole when data move."""
    if not (prompt.image or prompt.video):
        return ""
    frames = read_image(prompt.image) if prompt.image else read_video(prompt.video, prompt.fps, max_frames)
    return _save(frames, prompt.fps, run_dir, f"{name}_seen")


def _save(frames: np.ndarray, fps: float, run_dir: Path, name: str) -> str:
    """Of a size to be looked at; the file's name."""
    file = f"{name}.{'gif' if len(frames) > 1 else 'png'}"
    longest = max(frames.shape[1:3])
    if longest > MAX_SHOWN_SIDE:
        frames = shrink(frames, MAX_SHOWN_SIDE)
    else:
        frames = enlarge(frames, max(1, SHOWN_SIDE // longest))
    save_media(run_dir / file, frames, fps)
    return file


def _segments(prompt: VisualPromptConfig) -> list[Segment]:
    media = [Image(prompt.image, "understand")] if prompt.image else []
    media += [Video(prompt.video, prompt.fps, "understand")] if prompt.video else []
    return [*media, *([Text(prompt.text, loss=False)] if prompt.text else [])]
