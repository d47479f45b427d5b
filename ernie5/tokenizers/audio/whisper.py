"""The encoder of Whisper (arXiv:2212.04356) as a semantic teacher, from a local folder as transformers saves it.

Like the published model it hears whole windows, thirty seconds that end in silence: a short clip takes as long.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND
from ernie5.errors import UserError

RATE, WINDOW, HOP = 16_000, 400, 160  # of the spectrogram, in Hz and samples
MEL_PER_POSITION = 2  # the second convolution's stride
POSITIONS_PER_FRAME = 4  # 50 Hz over 12.5 Hz
FRAME = HOP * MEL_PER_POSITION * POSITIONS_PER_FRAME  # samples of a frame of codes at RATE
LOWEST_POWER, RANGE = 1e-10, 8.0  # of the logarithm; powers of ten kept below the loudest
REMEDY = "name a folder with the config.json and the model.safetensors of a Whisper model"


@dataclass(frozen=True, kw_only=True)
class WhisperSizes:
    """Those of the encoder, by their names in `config.json`."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int


class WhisperEncoder(nn.Layer):
    """Encoder states of a Whisper model, averaged over the four of each 80 ms. Its weights never train."""

    def __init__(self, folder: Path | str, sample_rate: int):
        """sample_rate: of the waveforms that it will hear, which it resamples. UserError: not such a folder."""
        super().__init__()
        sizes = read_sizes(Path(folder) / "config.json")
        weights = _read_weights(Path(folder) / "model.safetensors")
        self.dim, self.sample_rate, self.sizes = sizes.d_model, sample_rate, sizes
        self.conv1 = nn.Conv1D(sizes.num_mel_bins, sizes.d_model, 3, padding=1)
        self.conv2 = nn.Conv1D(sizes.d_model, sizes.d_model, 3, stride=MEL_PER_POSITION, padding=1)
        self.embed_positions = nn.Embedding(sizes.max_source_positions, sizes.d_model)
        self.layers = nn.LayerList(_Layer(sizes) for _ in range(sizes.encoder_layers))
        self.layer_norm = nn.LayerNorm(sizes.d_model)
        self._assign(weights, Path(folder))
        self.eval()

    @paddle.no_grad()
    def features(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """float32 [batch, samples] -> float32 [batch, frames of 80 ms, d_model]; a window after the other."""
        samples = resampled(waveform.numpy(), self.sample_rate)
        window = self.sizes.max_source_positions // POSITIONS_PER_FRAME * FRAME
        parts = []
        for start in range(0, samples.shape[1], window):
            part = samples[:, start : start + window]
            padded = np.pad(part, [(0, 0), (0, window - part.shape[1])])
            states = self(paddle.to_tensor(log_mel(padded, self.sizes.num_mel_bins)))
            batch, positions, dim = states.shape
            frames = states.reshape([batch, positions // POSITIONS_PER_FRAME, POSITIONS_PER_FRAME, dim]).mean(axis=2)
            parts.append(frames[:, : part.shape[1] // FRAME])
        return paddle.concat(parts, axis=1)

    def forward(self, mel: paddle.Tensor) -> paddle.Tensor:
        """Log-mel spectrograms [batch, num_mel_bins, 2 * positions] -> states [batch, positions, d_model]."""
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose([0, 2, 1])
        hidden = hidden + self.embed_positions.weight
        for layer in self.layers:
            hidden = layer(hidden)
        return self.layer_norm(hidden)

    def _assign(self, weights: Mapping[str, np.ndarray], folder: Path) -> None:
        """Sets all weights; UserError unless they are there in the sizes of `config.json`. Linear ones are turned."""
        linear = {f"{name}.weight" for name, layer in self.named_sublayers() if isinstance(layer, nn.Linear)}
        for name, tensor in self.state_dict().items():
            array = weights.get(name)
            array = array.T if array is not None and name in linear else array
            if array is None or list(array.shape) != tensor.shape:
                found = "missing" if array is None else f"of shape {list(weights[name].shape)}"
                raise UserError(f"{folder}: encoder.{name} is {found} in model.safetensors: {REMEDY}")
            tensor.set_value(np.ascontiguousarray(array, np.float32))
            tensor.stop_gradient = True


class _Layer(nn.Layer):
    """Attention and MLP, each behind a norm and added to its input; names are those of the weights in the file."""

    def __init__(self, sizes: WhisperSizes):
        super().__init__()
        width = sizes.d_model
        self.self_attn = _Attention(width, sizes.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, sizes.encoder_ffn_dim)
        self.fc2 = nn.Linear(sizes.encoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden))
        return hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))


class _Attention(nn.Layer):
    """Every position to every position; keys have no bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias_attr=False)

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        batch, positions, width = hidden.shape
        split = [batch, positions, self.heads, width // self.heads]
        query, key, value = (f(hidden).reshape(split) for f in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.reshape([batch, positions, width]))


def resampled(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [batch, samples] at a rate -> [batch, frames * FRAME] at RATE, filled with zeros to whole frames.

    By cutting or lengthening the spectrum, as scipy.signal.resample: exact for whole frames of 80 ms. A frame of
    silence keeps the end from running into the beginning.
    """
    before = round(sample_rate / FRAMES_PER_SECOND)
    frames = -(-waveform.shape[1] // before)
    padded = np.pad(waveform, [(0, 0), (0, (frames + 1) * before - waveform.shape[1])])
    if before == FRAME:
        return padded[:, : frames * FRAME]
    spectrum = np.fft.rfft(padded)
    shared = min(before, FRAME) * (frames + 1) // 2  # below the lower one's Nyquist frequency
    spectrum[:, shared:] = 0
    return (np.fft.irfft(spectrum, (frames + 1) * FRAME)[:, : frames * FRAME] * (FRAME / before)).astype(np.float32)


def log_mel(waveform: np.ndarray, bands: int) -> np.ndarray:
    """[batch, samples] at RATE -> float32 [batch, bands, samples // HOP], as the published model was trained on."""
    padded = np.pad(waveform, [(0, 0), (WINDOW // 2, WINDOW // 2)], mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, : waveform.shape[1] : HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])))
    mel = np.log10(np.maximum(power @ _mel_bank(bands).T, LOWEST_POWER)).transpose(0, 2, 1)
    mel = np.maximum(mel, mel.max(axis=(1, 2), keepdims=True) - RANGE)
    return ((mel + 4) / 4).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_bank(bands: int) -> np.ndarray:
    """Triangles [bands, WINDOW / 2 + 1] of equal area on Slaney's mel scale: linear to 1 kHz, then logarithmic."""
    octave = math.log(6.4) / 27  # a mel above 1 kHz, whose mel is 15
    highest = 15 + math.log(RATE / 2 / 1000) / octave
    mels = np.linspace(0, highest, bands + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(octave * (np.maximum(mels, 15) - 15)))
    low, centre, high = (corners[i : i + bands, None] for i in range(3))
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    triangles = np.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre))
    return np.maximum(0, triangles) * 2 / (high - low)


def read_sizes(path: Path) -> WhisperSizes:
    """Those in a `config.json`. UserError: not that of a Whisper model."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}): {REMEDY}") from None
    if not isinstance(values, dict) or values.get("model_type") != "whisper":
        raise UserError(f"{path}: model_type is not whisper: {REMEDY}")
    names = list(WhisperSizes.__dataclass_fields__)
    wrong = [name for name in names if type(values.get(name)) is not int or values[name] <= 0]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is {values.get(wrong[0])}: must be a number above 0")
    sizes = WhisperSizes(**{name: values[name] for name in names})
    if sizes.d_model % sizes.encoder_attention_heads:
        raise UserError(
            f"{path}: d_model is {sizes.d_model}: must be a multiple of its {sizes.encoder_attention_heads} heads"
        )
    if sizes.max_source_positions % POSITIONS_PER_FRAME:
        raise UserError(
            f"{path}: max_source_positions is {sizes.max_source_positions}: must be a multiple of {POSITIONS_PER_FRAME}"
        )
    if values.get("activation_function", "gelu") != "gelu":
        raise UserError(f"{path}: activation_function is {values['activation_function']}: must be gelu")
    return sizes


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    """The encoder's arrays of a safetensors file, named from the encoder on; of a whole model or of its encoder."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(("model.encoder.", "encoder."))]
            return {name.partition("encoder.")[2]: file.get_tensor(name) for name in names}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): {REMEDY}") from None
    except (SafetensorError, TypeError) as error:  # TypeError: a type that NumPy has not, such as bfloat16
        raise UserError(f"{path}: cannot be read ({error}): save the model again in float32") from None
