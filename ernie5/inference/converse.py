"""Free generation: text until the model begins a picture or a film, which is drawn, and text again."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.schema import GenerationConfig, ResolutionConfig, VisualSamplingConfig
from ernie5.data.sample import Segment
from ernie5.inference.decoding import Decoding, evaluating
from ernie5.inference.draw import Drawing, count_latent_frames, picker, to_pixels
from ernie5.inference.generate import next_words
from ernie5.inference.prompt import read_prompts
from ernie5.inference.sampling import is_guided
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer


class Canvas(NamedTuple):
    """What pictures and films are drawn with, and their size. A film has `num_frames`; a picture is one frame."""

    tokenizer: VisionTokenizer
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
) -> Iterator[str | np.ndarray]:
    """Yields pieces of text, and media uint8 [frames, height, width, 3], until `</s>` or max_new_tokens words.

    Without a canvas it is text alone: the marks of media are words that are not shown. Raises UserError for a number of
    frames that the tokenizer does not make, and for media of the prompt as `encode_prompt` does.
    """
    stream, rng = tokenizer.stream(), np.random.default_rng(seed)
    mark = tokenizer.special_ids
    endings = {mark["<boi>"]: mark["<eoi>"], mark["<bov>"]: mark["<eov>"]} if canvas else {}
    if canvas:
        count_latent_frames(canvas.num_frames, canvas.tokenizer)
    with evaluating(model):
        decoding, hidden = read_prompts(model, tokenizer, [prompt], subnet)
        for _ in range(config.max_new_tokens):
            ids = next_words(decoding, hidden, config, rng)
            next_id = int(ids[0])
            yield stream.push(next_id)
            if next_id == tokenizer.eos_id:
                break
            if next_id in endings:
                num_frames = canvas.num_frames if next_id == mark["<bov>"] else 1
                frames, hidden = _draw(decoding, canvas, num_frames, next_id, endings[next_id], config.vision, rng)
                yield frames
            else:
                hidden = decoding.read_words(ids)
    yield stream.finish()


def _draw(
    decoding: Decoding,
    canvas: Canvas,
    num_frames: int,
    begin_id: int,
    end_id: int,
    config: VisualSamplingConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, paddle.Tensor]:
    """Draws behind the only row; (uint8 [frames, height, width, 3], [1, hidden] of the mark of its end)."""
    if is_guided(config):
        decoding.branch()
    scales = canvas.resolution.scales
    drawing = Drawing(decoding, canvas.tokenizer, scales, count_latent_frames(num_frames, canvas.tokenizer))
    latents = drawing.draw(begin_id, picker(config, len(scales), rng))
    hidden = drawing.end(end_id)
    if is_guided(config):
        decoding.keep_rows(1)
    return to_pixels(canvas.tokenizer, latents[:1])[0], hidden[:1]
