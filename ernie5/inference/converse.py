"""Free generation: text until the model begins a picture, a film or a sound, which is made, and text again."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, ResolutionConfig, VisualSamplingConfig
from ernie5.data.sample import Segment
from ernie5.inference.coders import SIGHT, require_vision
from ernie5.inference.decoding import Decoding, evaluating
from ernie5.inference.draw import Drawing, count_latent_frames, picker, to_pixels
from ernie5.inference.generate import next_words
from ernie5.inference.prompt import read_prompts
from ernie5.inference.sampling import is_guided
from ernie5.inference.speak import Sound, Speaking, to_waveforms
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer


class Canvas(NamedTuple):
    """The size of what is drawn. A film has `num_frames`; a picture is one frame."""

    resolution: ResolutionConfig
    num_frames: int


def converse(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompt: Sequence[Segment],
    config: GenerationConfig,
    canvas: Canvas | None = None,
    seed: int = 0,
    subnet: Subnet | None = None,
    coders: Coders = SIGHT,
) -> Iterator[str | np.ndarray | Sound]:
    """Yields text, drawings uint8 [frames, height, width, 3] and sounds, until `</s>` or max_new_tokens words.

    Without a canvas nothing is drawn, without `coders` of audio nothing is spoken: the marks of media are then words
    that are not shown. Raises UserError for a canvas that `coders` cannot draw on, and for media of the prompt as
    `read_prompts` does.
    """
    stream, rng = tokenizer.stream(), np.random.default_rng(seed)
    mark = tokenizer.special_ids
    endings = {}
    if canvas is not None:
        codec = require_vision(coders, model)
        count_latent_frames(canvas.num_frames, codec)
        endings |= {mark["<boi>"]: mark["<eoi>"], mark["<bov>"]: mark["<eov>"]}
    if coders.audio is not None:
        endings[mark["<boa>"]] = mark["<eoa>"]
    with evaluating(model):
        decoding, hidden = read_prompts(model, tokenizer, [prompt], subnet, coders)
        for _ in range(config.max_new_tokens):
            ids = next_words(decoding, hidden, config, rng)
            next_id = int(ids[0])
            yield stream.push(next_id)
            if next_id == tokenizer.eos_id:
                break
            if next_id not in endings:
                hidden = decoding.read_words(ids)
                continue
            marks = next_id, endings[next_id]
            if next_id == mark["<boa>"]:
                medium, hidden = _speak(decoding, coders.audio.tokenizer, marks, config.audio, rng)
            else:
                size = canvas if next_id == mark["<bov>"] else canvas._replace(num_frames=1)
                medium, hidden = _draw(decoding, codec, size, marks, config.vision, rng)
            yield medium
    yield stream.finish()


def _draw(
    decoding: Decoding,
    codec: VisionTokenizer,
    canvas: Canvas,
    marks: tuple[int, int],
    config: VisualSamplingConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, paddle.Tensor]:
    """Draws behind the only row; (uint8 [frames, height, width, 3], [1, hidden] of the mark of its end)."""
    if is_guided(config):
        decoding.branch()
    scales = canvas.resolution.scales
    drawing = Drawing(decoding, codec, scales, count_latent_frames(canvas.num_frames, codec))
    latents = drawing.draw(marks[0], picker(config, len(scales), rng))
    hidden = drawing.end(marks[1])
    decoding.keep_rows(1)
    return to_pixels(codec, latents[:1])[0], hidden[:1]


def _speak(
    decoding: Decoding,
    codec: AudioTokenizer,
    marks: tuple[int, int],
    config: AudioSamplingConfig,
    rng: np.random.Generator,
) -> tuple[Sound, paddle.Tensor]:
    """Speaks behind the only row; the sound, and [1, hidden] of the mark of its end."""
    if is_guided(config):
        decoding.branch()
    speaking = Speaking(decoding, config, rng)
    frames = np.stack(list(speaking.frames(marks[0])), axis=1)
    hidden = speaking.end(marks[1])
    decoding.keep_rows(1)
    return Sound(to_waveforms(codec, frames)[0], codec.config.sample_rate), hidden[:1]
