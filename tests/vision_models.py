"""Small vision: a model, a tokenizer of random weights, and files of noise, for tests that draw and look."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from PIL import Image as Picture

from ernie5.config.schema import (
    ModelConfig,
    ResolutionConfig,
    VisionConfig,
    VisionEncoderConfig,
    ViTConfig,
)
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer, train_tokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

SQUARE = ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2), (4, 4)))
WIDE = ResolutionConfig(height=8, width=16, scales=((1, 1), (1, 2), (2, 3), (4, 8)))  # (2, 3) divides neither axis
BITS, MAX_BITS = 5, 6


def vision_config(temporal_window: int = 1, temporal_stride: int = 1) -> VisionConfig:
    """Pictures of 8 x 8 and 8 x 16 pixels in cells of 2 x 2; a model that has room for one more bit than is used."""
    return VisionConfig(
        encoder=VisionEncoderConfig(channels=(4, 8), num_res_blocks=1, temporal_stride=temporal_stride),
        max_bits=MAX_BITS,
        resolutions=(SQUARE, WIDE),
        vit=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
        merger_heads=2,
        temporal_window=temporal_window,
    )


def vision_tokenizer(temporal_stride: int = 1, bits: int = BITS) -> VisionTokenizer:
    """One of random weights that fits `vision_config`."""
    vision = vision_config(temporal_stride=temporal_stride)
    config = VisionTokenizerConfig(encoder=vision.encoder, bits=bits, resolutions=vision.resolutions)
    paddle.seed(5)
    tokenizer = stirred(VisionTokenizer(config))
    tokenizer.eval()
    return tokenizer


def stirred(network: nn.Layer) -> nn.Layer:
    """The network with noise where its weights begin at zero, as those of residual branches do: every one counts."""
    for parameter in network.parameters():
        if not float(parameter.abs().sum()):
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    return network


def vision_model(text: ModelConfig, vision: VisionConfig) -> Ernie5ForCausalLM:
    """The text model with vision, and weights so large that every input shows in every logit."""
    paddle.seed(7)
    rng = np.random.default_rng(7)
    model = Ernie5ForCausalLM(dataclasses.replace(text, vision=vision, vocab_size=310))
    for name, tensor in model.state_dict().items():
        if "norm" not in name and "expert_bias" not in name:
            tensor.set_value(rng.normal(0, 0.2, tensor.shape).astype(np.float32))
    return model.eval()


def text_tokenizer() -> TextTokenizer:
    """One that knows a few letters and all bytes."""
    return train_tokenizer(["Draw a seven. What is it? It moves to the left. " * 20], vocab_size=310)


def noise_picture(folder: Path, height: int = 8, width: int = 8, seed: int = 0) -> str:
    """The name of a PNG file of noise."""
    path = folder / f"noise_{height}x{width}_{seed}.png"
    Picture.fromarray(_noise([height, width, 3], seed)).save(path)
    return str(path)


def noise_film(folder: Path, num_frames: int, height: int = 8, width: int = 8, seed: int = 0) -> str:
    """The name of a GIF file of noise, 4 frames a second."""
    path = folder / f"noise_{num_frames}x{height}x{width}_{seed}.gif"
    first, *others = (Picture.fromarray(frame) for frame in _noise([num_frames, height, width, 3], seed))
    first.save(path, save_all=True, append_images=others, duration=250)
    return str(path)


def _noise(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
