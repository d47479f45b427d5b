"""Pictures and films by next frame and scale (report §2.2.3): the bits of a scale at once, then the next scale."""

from collections.abc import Callable, Sequence

import numpy as np
import paddle

from ernie5.config.schema import VisualSamplingConfig
from ernie5.errors import UserError
from ernie5.inference.paged_sequence import PagedSequence, Places
from ernie5.inference.reading import Embedded, Head, Read, Reads, words_of
from ernie5.inference.request import Canvas
from ernie5.inference.sampling import guided, is_guided, sample_bits
from ernie5.inference.task import Loop, Task
from ernie5.inference.write import Writer
from ernie5.modality.token_layout import TO_THE_END
from ernie5.modality.visual_layout import Scales, generation_layout
from ernie5.tokenizers.vision.causal_conv import Stream
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

DECODED_FRAMES = 16  # latent frames of a film that become pixels at once: the memory of a long film is that of a piece
# (log-odds of 1, float32 [branches, cells, bits]; number of the scale) -> the bits, 0 or 1, float32 [cells, bits]
Pick = Callable[[np.ndarray, int], np.ndarray]


def draw(task: Task, writer: Writer, codec: VisionTokenizer, canvas: Canvas, marks: tuple[int, int]) -> Loop:
    """Draws behind what `writer` has read, and tells it, uint8 [num_frames, height, width, 3]: a picture is one frame.

    marks: ids of its beginning and end. Returns the logits behind the end.
    """
    config, scales = task.request.config.vision, canvas.resolution.scales
    writer.stop_speculating()
    branches = [writer.sequence]
    if is_guided(config):
        branches.append((yield from task.open_unconditional()))
    drawing = Drawing(task, branches, codec, scales, count_latent_frames(canvas.num_frames, codec))

    def pick(logits: np.ndarray, scale: int) -> np.ndarray:
        return task.choose(lambda rng: _pick(logits, scale, len(scales), config, rng))

    latents = yield from drawing.draw(marks[0], pick)
    task.tell(to_pixels(codec, latents)[0])
    for sequence in branches[1:]:
        task.close_sequence(sequence)
    return (yield from drawing.end(marks[1]))


def _pick(
    logits: np.ndarray, scale: int, num_scales: int, config: VisualSamplingConfig, rng: np.random.Generator
) -> np.ndarray:
    """Log-odds [branches, cells, bits] -> the bits [cells, bits]."""
    if is_guided(config):
        logits = guided(logits, scale, num_scales, config)
    return sample_bits(logits, config, rng)[0]


class Drawing:
    """A medium that is drawn behind sequences which stand for one: the prompt's, and with guidance an unconditional."""

    def __init__(
        self,
        task: Task,
        branches: Sequence[PagedSequence],
        tokenizer: VisionTokenizer,
        scales: Scales,
        latent_frames: int,
    ):
        self.branches, self.tokenizer, self.scales = branches, tokenizer, scales
        self.latent_frames = latent_frames
        self._task, self._model = task, task.model
        self._layout = generation_layout(latent_frames, scales, task.model.config.vision.temporal_window)
        self._sum = None  # of all scales of the newest frame, at the size of the first: the token that is read next

    def draw(self, begin_id: int, pick: Pick) -> Loop:
        """Reads the mark of the beginning and draws; returns float32 [1, latent frames, height, width, bits]."""
        bits = self.tokenizer.config.bits
        answers = yield Reads([words_of(sequence, [begin_id], head="bits") for sequence in self.branches])
        self._origins = [(sequence.number, sequence.position) for sequence in self.branches]
        inputs, place, frames = None, 0, []
        for frame in range(self.latent_frames):
            latent = paddle.zeros([1, *self.scales[-1], bits])
            for k, scale in enumerate(self.scales):
                if frame or k:
                    answers = yield self._reads(inputs, place, "bits")
                    place += inputs.shape[1] * inputs.shape[2]
                    self._task.completion_tokens += inputs.shape[1] * inputs.shape[2]
                chosen = pick(np.stack([answer.values[:, :bits] for answer in answers]), k)
                latent = self.tokenizer.accumulate(
                    latent, paddle.to_tensor(chosen).reshape([1, *scale, bits]), k, self.scales
                )
                inputs = self.tokenizer.next_input(latent, k + 1, self.scales)
            frames.append(latent)
        self._sum = inputs
        return paddle.stack(frames, axis=1)

    def end(self, end_id: int) -> Loop:
        """Reads the last token of the medium and the mark of its end behind the first branch; returns its logits."""
        self.branches = self.branches[:1]
        yield self._reads(self._sum, len(self._layout) - 1, "none")
        (sequence,) = self.branches
        sequence.position = np.float32(sequence.position + self._layout.extent)
        (answer,) = yield Reads([words_of(sequence, [end_id])])
        return answer.values[0]

    def _reads(self, inputs: paddle.Tensor, place: int, head: Head) -> Reads:
        """inputs [1, h, w, bits]: the group of tokens that begins at `place`, read by all branches."""
        inputs = inputs.reshape([1, -1, inputs.shape[-1]])
        count, layout = inputs.shape[1], self._layout
        tokens = slice(place, place + count)
        embedded = Embedded(self._model.vision_generation.embed(inputs, layout.scale_ids[tokens])[0])
        reads = []
        for sequence, (number, position) in zip(self.branches, self._origins, strict=False):
            until = layout.hidden_from[tokens]
            places = Places(
                layout.positions[tokens] + position,
                layout.group_start[tokens] + number,
                np.where(until == TO_THE_END, until, until + number),
            )
            reads.append(Read(sequence, embedded, places, head=head, wanted=count))
        return Reads(reads)


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
