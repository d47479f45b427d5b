"""A picture or a film of a sample becomes tokens: how many, where they stand, what is corrupted. Pixels ride along."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ernie5.config.schema import VisionConfig, VisionDataConfig
from ernie5.data.media import fit_native, fit_resolution, read_image, read_video
from ernie5.data.sample import Image, MediaRole, Video
from ernie5.modality.bit_flips import flip_rates
from ernie5.modality.unified import TokenKind, VisualMedium
from ernie5.modality.visual_layout import VisualLayout, generation_layout, understanding_layout


class VisionSettings(NamedTuple):
    """What the model says of visual tokens, and what the run says of visual data."""

    model: VisionConfig
    data: VisionDataConfig

    def uncorrupted(self) -> "VisionSettings":
        """As evaluation and prompts take media: nothing dropped, masked or flipped."""
        data = replace(self.data, condition_dropout=0.0, frame_mask_probability=0.0)
        return self._replace(data=replace(data, flip_min=0.0, flip_max=0.0, flip_step=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedMedium:
    """A medium with the layout of its tokens."""

    layout: VisualLayout
    pixels: np.ndarray  # uint8 [frames, height, width, 3]
    scales: tuple[tuple[int, ...], ...] = ()  # none: it is understood
    flip_rates: np.ndarray | None = None
    flip_seed: int = 0

    @property
    def is_generated(self) -> bool:
        return bool(self.scales)

    @property
    def kind(self) -> TokenKind:
        return TokenKind.VISION_GENERATION if self.is_generated else TokenKind.VISION_UNDERSTANDING

    def placed(self, start: int) -> VisualMedium:
        """With its first token at `start`."""
        return VisualMedium(
            pixels=self.pixels,
            start=start,
            length=len(self.layout),
            scales=self.scales,
            flip_rates=self.flip_rates,
            flip_seed=self.flip_seed,
        )


def encode_medium(segment: Image | Video, settings: VisionSettings, seed: int) -> EncodedMedium:
    """Reads the file; what is drawn at random is a function of `seed`. Raises UserError if it cannot be read."""
    model, data = settings
    if isinstance(segment, Image):
        pixels = read_image(segment.source)
    else:
        pixels = _fill_latent_frames(read_video(segment.source, segment.fps, model.max_frames), segment.role, model)
    latent_frames = 1 + (len(pixels) - 1) // model.encoder.temporal_stride
    stride = model.encoder.stride
    if segment.role == "understand":
        pixels = fit_native(pixels, 2 * stride, model.max_understanding_pixels)
        return EncodedMedium(understanding_layout(latent_frames, *(n // stride for n in pixels.shape[1:3])), pixels)
    pixels = fit_resolution(pixels, model.resolutions)
    scales = next(r.scales for r in model.resolutions if (r.height, r.width) == pixels.shape[1:3])
    rng = np.random.default_rng(seed)
    masked = np.flatnonzero(rng.random(latent_frames) < data.frame_mask_probability)
    return EncodedMedium(
        layout=generation_layout(latent_frames, scales, model.temporal_window, masked),
        pixels=pixels,
        scales=scales,
        flip_rates=flip_rates(latent_frames, len(scales), data, rng) if data.flip_max or data.flip_step else None,
        flip_seed=int(rng.integers(2**31)),
    )


def _fill_latent_frames(frames: np.ndarray, role: MediaRole, model: VisionConfig) -> np.ndarray:
    """Frames that make whole latent ones: what is looked at repeats its last, what is generated loses the rest."""
    stride = model.encoder.temporal_stride
    if role == "understand":
        return np.concatenate([frames, frames[-1:].repeat(-(len(frames) - 1) % stride, axis=0)])
    return frames[: 1 + (len(frames) - 1) // stride * stride]
