"""The vision tokenizer: pixels to residual bits and back, a picture being a film of one frame (report §2.2.1)."""

from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn

from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.layers.network_folder import digest
from ernie5.tokenizers.vision import residual
from ernie5.tokenizers.vision.causal_conv import TEMPORAL_KERNEL, Stream, inflate
from ernie5.tokenizers.vision.decoder import VisionDecoder
from ernie5.tokenizers.vision.encoder import VisionEncoder
from ernie5.tokenizers.vision.folder import FOLDER
from ernie5.tokenizers.vision.quantizer import make_quantizer
from ernie5.tokenizers.vision.residual import ResidualCodes

Scales = Sequence[Sequence[int]]  # (height, width) of each in latent cells


class VisionTokenizer(nn.Layer):
    """A causal multi-scale bit-wise autoencoder. `temporal_kernel` 1 is the picture network that training begins with.

    A film may come in chunks: pass the same `Stream` to each call of `latents`, and another one or the same to each of
    `decode`; the results are those of the whole film. The first chunk has 1 + n * temporal_stride frames, each later
    one n * temporal_stride; all have the films, height and width of the first.
    """

    def __init__(self, config: VisionTokenizerConfig, temporal_kernel: int = TEMPORAL_KERNEL):
        super().__init__()
        self.config, self.temporal_kernel = config, temporal_kernel
        self.encoder = VisionEncoder(config.encoder, temporal_kernel)
        self.to_bits = nn.Linear(config.encoder.channels[-1], config.bits)
        self.decoder = VisionDecoder(config.encoder, config.bits, temporal_kernel)
        self.quantizer = make_quantizer(config.quantizer, config.bits)

    def latents(self, pixels: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """pixels float32 [batch, frames, height, width, 3] in [-1, 1] -> [batch, latent frames, h, w, bits].

        Before quantisation. Raises UserError for a size that is no multiple of the strides, and for a chunk that does
        not go on with the films of its stream.
        """
        self._check_pixels(pixels.shape, stream)
        return self.to_bits(self.encoder(pixels, stream))

    def residual_quantize(
        self, latents: paddle.Tensor, scales: Scales, flips: Sequence[paddle.Tensor] | None = None
    ) -> ResidualCodes:
        """latents [N, h, w, bits], a frame each -> their codes, scale by scale; `flips` as in `residual`."""
        return residual.residual_quantize(latents, scales, self.quantizer, flips)

    def accumulate(self, latent: paddle.Tensor, bits: paddle.Tensor, k: int, scales: Scales) -> paddle.Tensor:
        """latent [N, h, w, bits], the sum of the scales before k, with the 0/1 bits [N, h_k, w_k, bits] of k added."""
        return residual.accumulate(latent, bits, k, scales, self.quantizer)

    def next_input(self, latent: paddle.Tensor, k: int, scales: Scales) -> paddle.Tensor:
        """What the model reads to predict scale k, from the sum [N, h, w, bits] of those before (see `residual`)."""
        return residual.next_input(latent, k, scales, self.quantizer)

    def decode(self, latents: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """Summed scales [batch, latent frames, h, w, bits] -> pixels [batch, frames, height, width, 3] in [-1, 1].

        Raises UserError for another number of bits, for nothing, and for a chunk that does not go on with its stream.
        """
        self._check_latents(latents.shape, stream)
        return self.decoder(latents, stream).clip(-1, 1)

    def inflated(self) -> "VisionTokenizer":
        """The video network that equals this picture network on every frame (report §2.2.1)."""
        video = VisionTokenizer(self.config)
        inflate(self.state_dict(), video)
        return video

    @property
    def digest(self) -> str:
        """sha256 of what decides the codes: the configuration and the weights."""
        return digest(self.config, self)

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed; an existing folder keeps its other files.

        A picture network is written as the video network that equals it.
        """
        if self.temporal_kernel == 1:
            return self.inflated().save_pretrained(folder)
        return FOLDER.save(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "VisionTokenizer":
        """What `save_pretrained` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree."""
        return FOLDER.load(folder, cls, weight_shapes)

    def _check_pixels(self, shape: Sequence[int], stream: Stream | None) -> None:
        stride, temporal_stride = self.config.encoder.stride, self.config.encoder.temporal_stride
        if len(shape) != 5 or shape[-1] != 3 or shape[0] < 1:
            raise UserError(f"pixels are {list(shape)}: the vision tokenizer needs [batch, frames, height, width, 3]")
        batch, frames, height, width, _ = shape
        if height % stride or width % stride or not height or not width:
            raise UserError(f"pixels are {height} x {width}: the vision tokenizer needs multiples of {stride}")
        begins = stream is None or stream.begins(self.encoder, (batch, height, width))
        if frames < 1 or (frames - begins) % temporal_stride:
            extra = "one more than " if begins else ""
            raise UserError(
                f"a film of {frames} frames: the vision tokenizer needs {extra}a multiple of {temporal_stride}"
            )
        if stream is not None:
            stream.follow(self.encoder, (batch, height, width))

    def _check_latents(self, shape: Sequence[int], stream: Stream | None) -> None:
        if len(shape) != 5 or shape[-1] != self.config.bits or min(shape) < 1:
            raise UserError(
                f"latents are {list(shape)}: the vision tokenizer needs [batch, frames, h, w, {self.config.bits}]"
            )
        if stream is not None:
            size = (shape[0], shape[2], shape[3])
            stream.begins(self.decoder, size)
            stream.follow(self.decoder, size)


def weight_shapes(config: VisionTokenizerConfig) -> dict[str, list[int]]:
    """Weights with each of the settings in their shapes."""
    encoder = config.encoder
    blocks = {
        f"encoder.blocks.{level}.{i}.conv1.weight": [width, width, TEMPORAL_KERNEL, 3, 3]
        for level, width in enumerate(encoder.channels)
        for i in range(encoder.num_res_blocks)
    }
    return blocks | {"to_bits.weight": [encoder.channels[-1], config.bits]}
