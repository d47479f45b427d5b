"""The audio tokenizer: waveform to frames of residual codes and back (report §2.3)."""

from pathlib import Path

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.errors import UserError
from ernie5.layers.network_folder import digest
from ernie5.tokenizers.audio.causal_layers import continue_clip
from ernie5.tokenizers.audio.decoder import AudioDecoder
from ernie5.tokenizers.audio.encoder import FRAME_KERNEL, AudioEncoder
from ernie5.tokenizers.audio.folder import FOLDER
from ernie5.tokenizers.audio.quantizer import ResidualVectorQuantizer
from ernie5.tokenizers.vision.causal_conv import Stream

BLOCK = 125  # frames that `encode` and `decode` take at once, 10 s: their memory does not grow with the clip


class AudioTokenizer(nn.Layer):
    """A causal codec. Waveforms are float32 [batch, samples] in [-1, 1] at the configured rate, mono.

    A clip may come in chunks: pass the same `Stream` to each call of `encode` or `latents`, and another one or the same
    to each of `decode`. Each chunk but the last has whole frames (`config.frame_size` samples); outside training the
    codes are then those of the whole clip to the last bit, whatever clips are beside it (on a CPU: `causal_layers`).
    """

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.quantizer = ResidualVectorQuantizer(config.num_codebooks, config.codebook_size, config.latent_size)
        self.decoder = AudioDecoder(config)

    def num_frames(self, samples: int) -> int:
        """Frames of codes of a clip; the last one may be filled with zeros."""
        return -(-samples // self.config.frame_size)

    def latents(self, waveform: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """float32 [batch, samples] -> float32 [batch, frames, latent_size], before quantisation.

        Raises UserError for anything but finite float32 samples, and for a chunk that does not go on with its stream.
        """
        self._check_waveform(waveform)
        batch, samples = waveform.shape
        missing = self.num_frames(samples) * self.config.frame_size - samples
        if stream is not None:
            continue_clip(stream, self.encoder, batch, ends=missing > 0)
        return self.encoder(F.pad(waveform, [0, missing], pad_from_left_axis=False) if missing else waveform, stream)

    @paddle.no_grad()
    def encode(self, waveform: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """float32 [batch, samples] -> codes int64 [batch, frames, num_codebooks]. Errors as of `latents`."""
        self._check_waveform(waveform)
        stream = stream or Stream()
        blocks = _split(waveform, BLOCK * self.config.frame_size)
        return paddle.concat([self.quantizer(self.latents(block, stream)).codes for block in blocks], axis=1)

    @paddle.no_grad()
    def decode(self, codes: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """Codes int64 [batch, frames, levels] -> waveform float32 [batch, frames * frame_size] in [-1, 1].

        Levels may be the first few. Raises UserError for codes that are none of the tokenizer's, and for a chunk that
        does not go on with its stream.
        """
        if codes.ndim != 3 or codes.dtype != paddle.int64 or not codes.size:
            raise UserError(f"codes are {_told(codes)}: the audio tokenizer needs int64 [batch, frames, levels]")
        stream = stream or Stream()
        continue_clip(stream, self.decoder, codes.shape[0], ends=False)
        blocks = [self.decoder(self.quantizer.decode(block), stream) for block in _split(codes, BLOCK)]
        return paddle.concat(blocks, axis=1).clip(-1, 1)

    @property
    def digest(self) -> str:
        """sha256 of what decides the codes: the configuration and the weights."""
        return digest(self.config, self)

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed; an existing folder keeps its other files."""
        return FOLDER.save(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "AudioTokenizer":
        """What `save_pretrained` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree."""
        return FOLDER.load(folder, cls, weight_shapes)

    def _check_waveform(self, waveform: paddle.Tensor) -> None:
        if waveform.ndim != 2 or waveform.dtype != paddle.float32 or not waveform.size:
            raise UserError(
                f"a waveform is {_told(waveform)}: the audio tokenizer needs float32 "
                "[batch, samples] with at least one sample"
            )
        if not waveform.isfinite().all():
            raise UserError("a waveform has samples that are no finite numbers: the audio tokenizer needs -1 to 1")


def weight_shapes(config: AudioTokenizerConfig) -> dict[str, list[int]]:
    """Weights with each of the settings in their shapes."""
    width, frame_width, bins = config.channels, config.frame_channels, config.window_size // 2
    blocks = {
        f"{part}.{name}.{i}.depthwise.weight": [channels, 1, kernel]
        for part in ("encoder", "decoder")
        for name, count, channels, kernel in (
            ("blocks", config.num_blocks, width, config.kernel_size),
            ("frame_blocks", config.num_frame_blocks, frame_width, FRAME_KERNEL),
        )
        for i in range(count)
    }
    return blocks | {
        "encoder.from_spectra.weight": [bins, width],
        "encoder.to_frames.weight": [config.steps_per_frame * width, frame_width],
        "encoder.to_latents.weight": [frame_width, config.latent_size],
        "decoder.to_spectra.weight": [width, 3 * bins],
        "quantizer.vectors": [config.num_codebooks, config.codebook_size, config.latent_size],
    }


def _split(tensor: paddle.Tensor, size: int) -> list[paddle.Tensor]:
    """Pieces of the second axis, all but the last of this size."""
    return [tensor[:, start : start + size] for start in range(0, tensor.shape[1], size)]


def _told(tensor: paddle.Tensor) -> str:
    """`float32 [2, 100]`."""
    return f"{str(tensor.dtype).removeprefix('paddle.')} {list(tensor.shape)}"
