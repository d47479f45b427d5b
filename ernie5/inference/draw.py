"""Pictures and films by next frame and scale (report §2.2.3): the bits of a scale at once, then the next scale."""

from collections.abc import Callable, Sequence

import numpy as np
import paddle

from ernie5.config.schema import ResolutionConfig, VisualSamplingConfig
from ernie5.data.sample import Segment
from ernie5.errors import UserError
from ernie5.inference.coders import require_vision
from ernie5.inference.decoding import Decoding, evaluating
from ernie5.inference.prompt import read_prompts
from ernie5.inference.sampling import guided, is_guided, sample_bits
from ernie5.modality.batch import Coders
from ernie5.modality.visual_layout import Scales, generation_layout
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.causal_conv import Stream
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

DECODED_FRAMES = 16  # latent frames of a film that become pixels at once: the memory of a long film is that of a piece
# (log-odds of 1, float32 [rows, cells, bits]; number of the scale) -> the bits, 0 or 1, float32 of the same shape
Pick = Callable[[np.ndarray, int], np.ndarray]


def draw(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompts: Sequence[Sequence[Segment]],
    resolution: ResolutionConfig,
    num_frames: int,
    config: VisualSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[np.ndarray]:
    """What the model draws behind each prompt, uint8 [num_frames, height, width, 3]: a picture if it is one frame.

    `resolution` is one of the model's. Raises UserError for a model or coders that cannot draw, for a number of frames
    that the tokenizer does not make, and for media of a prompt as `read_prompts` does.
    """
    codec = require_vision(coders, model)
    latent_frames = count_latent_frames(num_frames, codec)
    if not prompts:
        return []
    with evaluating(model):
        decoding, _ = read_prompts(model, tokenizer, prompts, subnet, coders)
        if is_guided(config):
            decoding.branch()
        begin_id = tokenizer.special_ids["<boi>" if num_frames == 1 else "<bov>"]
        drawing = Drawing(decoding, codec, resolution.scales, latent_frames)
        latents = drawing.draw(begin_id, picker(config, len(resolution.scales), np.random.default_rng(seed)))
    return list(to_pixels(codec, latents[: len(prompts)]))


def picker(config: VisualSamplingConfig, num_scales: int, rng: np.random.Generator) -> Pick:
    """Draws bits; with guidance, those of the first half of the rows, which the unconditional half then has too."""

    def pick(logits: np.ndarray, scale: int) -> np.ndarray:
        if not is_guided(config):
            return sample_bits(logits, config, rng)
        bits = sample_bits(guided(logits, scale, num_scales, config), config, rng)
        return np.concatenate([bits, bits])

    return pick


class Drawing:
    """Media of one size that are drawn behind the rows of `decoding`, one each, in step."""

    def __init__(self, decoding: Decoding, tokenizer: VisionTokenizer, scales: Scales, latent_frames: int):
        self.decoding, self.tokenizer, self.scales = decoding, tokenizer, scales
        self.latent_frames = latent_frames
        window = decoding.model.config.vision.temporal_window
        self._layout = generation_layout(latent_frames, scales, window)
        self._sum = None  # of all scales of the newest frame, at the size of the first: the token that is read next

    @paddle.no_grad()
    def draw(self, begin_id: int, pick: Pick) -> paddle.Tensor:
        """Reads the mark of the beginning and draws; float32 [rows, latent frames, height, width, bits]."""
        decoding, bits = self.decoding, self.tokenizer.config.bits
        hidden = decoding.read_words(np.full(decoding.num_rows, begin_id)).unsqueeze(1)
        inputs, place, frames = None, 0, []
        for frame in range(self.latent_frames):
            latent = paddle.zeros([decoding.num_rows, *self.scales[-1], bits])
            for k, scale in enumerate(self.scales):
                if frame or k:
                    hidden = self._read(inputs, place)  # [rows, cells, hidden]
                    place += hidden.shape[1]
                logits = decoding.model.vision_generation.logits(hidden)[..., :bits]
                chosen = paddle.to_tensor(pick(logits.astype("float32").numpy(), k))
                latent = self.tokenizer.accumulate(latent, chosen.reshape([-1, *scale, bits]), k, self.scales)
                inputs = self.tokenizer.next_input(latent, k + 1, self.scales)
            frames.append(latent)
        self._sum = inputs
        return paddle.stack(frames, axis=1)

    @paddle.no_grad()
    def end(self, end_id: int) -> paddle.Tensor:
        """Reads the last token of the media and the mark of their end; [rows, hidden] of the mark."""
        self._read(self._sum, len(self._layout) - 1)
        self.decoding.position = self.decoding.position + np.float32(self._layout.extent)
        return self.decoding.read_words(np.full(self.decoding.num_rows, end_id))

    def _read(self, inputs: paddle.Tensor, place: int) -> paddle.Tensor:
        """inputs [rows, h, w, bits], the group of tokens that begins at `place` -> [rows, h * w, hidden]."""
        inputs = inputs.reshape([inputs.shape[0], -1, inputs.shape[-1]])
        tokens = slice(place, place + inputs.shape[1])
        layout = self._layout
        return self.decoding.read(
            self.decoding.model.vision_generation.embed(inputs, layout.scale_ids[tokens]),
            layout.positions[tokens] + self.decoding.position[:, None, None],
            layout.group_start[None, tokens] - place,
            layout.hidden_from[None, tokens] - place,
        )


def count_latent_frames(num_frames: int, tokenizer: VisionTokenizer) -> int:
    """Raises UserError for a number of frames that the tokenizer does not decode to."""
    stride = tokenizer.config.encoder.temporal_stride
    if num_frames < 1 or (num_frames - 1) % stride:
        above = 1 + max(0, -(-(num_frames - 1) // stride)) * stride
        wanted = "1 or more" if stride == 1 else f"one more than a multiple of {stride}, such as {above}"
        raise UserError(f"a film of {num_frames} frames cannot be drawn: give {wanted}")
    return 1 + (num_frames - 1) // stride


@paddle.no_grad()
def to_pixels(tokenizer: VisionTokenizer, latents: paddle.Tensor) -> np.ndarray:
    """Drawn latents [media, latent frames, h, w, bits] -> uint8 [media, frames, height, width, 3], in pieces."""
    pieces = range(0, latents.shape[1], DECODED_FRAMES)
    stream = Stream() if len(pieces) > 1 else None
    decoded = (tokenizer.decode(latents[:, start : start + DECODED_FRAMES], stream) for start in pieces)
    pixels = (piece.astype("float32").numpy() for piece in decoded)
    return np.concatenate([np.rint((p + 1) * 127.5).clip(0, 255).astype(np.uint8) for p in pixels], axis=1)
