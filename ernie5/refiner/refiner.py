"""The refiner: low-resolution pixels in, pixels with detail out; a picture is a film of one frame (report §2.2.3)."""

from pathlib import Path
from typing import get_args

import numpy as np
import paddle
from paddle import nn

from ernie5.config.refiner import RefinerConfig, check
from ernie5.errors import UserError
from ernie5.layers.network_folder import NetworkFolder
from ernie5.refiner import flow
from ernie5.refiner.pixels import to_float, to_uint8, upsample
from ernie5.refiner.unet import UNet
from ernie5.refiner.windows import MAX_PIXELS, mixed, plan


def _check_trained(config: RefinerConfig, source: str) -> None:
    check(config, source)
    if config.detail_std == 0:
        raise UserError(f"{source}: detail_std is 0, which training replaces: restore it or train again")


FOLDER = NetworkFolder(
    name="refiner",
    model_type="ernie5_refiner",
    version=1,
    config_type=RefinerConfig,
    check=_check_trained,
    command="tools/refiner.py train",
)


class Refiner(nn.Layer):
    """Makes the detail that the upsampled input lacks: (original - upsampled) / `detail_std`, of variance about 1.

    All frames of a film begin with the same noise, in training and in use: a film then does not flicker by its noise,
    and a picture is exactly a film of one frame.
    """

    def __init__(self, config: RefinerConfig):
        super().__init__()
        if config.detail_std <= 0:
            raise ValueError("detail_std is 0: measure it (`pairs.measure_detail`) and build the refiner with it")
        self.config = config
        self.network = UNet(config)

    def forward(
        self, x_t: paddle.Tensor, upsampled: paddle.Tensor, t: paddle.Tensor, strength: paddle.Tensor
    ) -> paddle.Tensor:
        """x_t and upsampled float32 [batch, frames, height, width, 3], t and strength [batch] -> prediction as x_t.

        The prediction is that of `flow.rotated`.
        """
        return self.network(flow.network_input(x_t, _wide(t)), upsampled, t, strength)

    def loss(
        self,
        original: paddle.Tensor,
        upsampled: paddle.Tensor,
        strength: paddle.Tensor,
        noise: paddle.Tensor,
        t: paddle.Tensor,
    ) -> paddle.Tensor:
        """Mean squared error, 1 for a network that says nothing. Pixels [batch, frames, height, width, 3] in [-1, 1].

        noise [batch, 1, height, width, 3]; strength and t [batch].
        """
        detail = (original - upsampled) / self.config.detail_std
        noise = noise.expand(detail.shape)
        prediction = self(flow.on_path(detail, noise, _wide(t)), upsampled, t, strength)
        return ((prediction - flow.rotated(detail, noise, _wide(t))) ** 2).mean()

    @paddle.no_grad()
    def refine(
        self,
        pixels: np.ndarray,
        strength: float,
        num_steps: int = 8,
        method: flow.Method = "euler",
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> np.ndarray:
        """uint8 [frames, h, w, 3] -> uint8 [frames, h * scale, w * scale, 3].

        strength: how degraded the input is, 0 to 1, as in `degrade`; the more, the more the refiner invents.
        num_steps: 1 gives the mean over all likely pictures, more give one of them. The noise is a function of `seed`.
        max_pixels: refined pixels, times frames, that the network sees at once. What has more is seen in overlapping
        windows at every step (`windows`), which bounds the network's memory; about 50 bytes a pixel are held besides.
        Raises UserError for a size that does not fit, and for pixels, strength, steps, method, seed or limit that are
        none.
        """
        self._check(pixels, strength, num_steps, method, seed)
        upsampled = upsample(pixels, self.config.scale)
        looks = plan(upsampled.shape[:3], self.config, max_pixels)
        told = paddle.full([1], strength, "float32")

        def field(x_t: np.ndarray, t: float) -> np.ndarray:
            time = paddle.full([1], t, "float32")

            def look(where: tuple[slice, slice, slice]) -> np.ndarray:
                x_seen = paddle.to_tensor(x_t[where])[None]
                prediction = self(x_seen, paddle.to_tensor(to_float(upsampled[where]))[None], time, told)
                return flow.velocity(prediction, x_seen, _wide(time))[0].numpy()

            return mixed(look, looks, x_t.shape)

        noise = draw_noise(np.random.default_rng(seed), 1, *upsampled.shape[1:3])[0].numpy()
        detail = flow.integrate(field, np.broadcast_to(noise, upsampled.shape), num_steps, method)
        std = np.float32(self.config.detail_std)
        return np.stack([to_uint8(to_float(u) + std * d) for u, d in zip(upsampled, detail, strict=True)])

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed; an existing folder keeps its other files."""
        return FOLDER.save(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Refiner":
        """What `save_pretrained` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree."""
        return FOLDER.load(folder, cls, weight_shapes)

    def _check(self, pixels: np.ndarray, strength: float, num_steps: int, method: str, seed: int) -> None:
        scale, stride = self.config.scale, self.config.stride
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise UserError(
                f"the refiner takes uint8 [frames, height, width, 3], but got {pixels.dtype} {list(pixels.shape)}: "
                "convert the pixels"
            )
        height, width = pixels.shape[1:3]
        if height * scale % stride or width * scale % stride:
            raise UserError(
                f"a picture of {height} x {width}: the refiner needs multiples of {stride // scale}: cut it"
            )
        if not 0 <= strength <= 1:
            raise UserError(f"strength is {strength}: say how degraded the input is, from 0 (not) to 1")
        if num_steps < 1:
            raise UserError(f"num_steps is {num_steps}: take at least one step")
        if method not in get_args(flow.Method):
            raise UserError(f"method is {method}: take {' or '.join(get_args(flow.Method))}")
        if seed < 0:
            raise UserError(f"seed is {seed}: must not be negative")


def draw_noise(rng: np.random.Generator, batch: int, height: int, width: int) -> paddle.Tensor:
    """float32 [batch, 1, height, width, 3]: one for all frames of a film."""
    return paddle.to_tensor(rng.standard_normal((batch, 1, height, width, 3), np.float32))


def _wide(t: paddle.Tensor) -> paddle.Tensor:
    """[batch] -> [batch, 1, 1, 1, 1]."""
    return t.reshape([-1, 1, 1, 1, 1])


def weight_shapes(config: RefinerConfig) -> dict[str, list[int]]:
    """Weights with each of the settings in their shapes."""
    blocks = {
        f"network.down.{level}.blocks.{i}.conv1.weight": [width, width, 3, 3]
        for level, width in enumerate(config.channels)
        for i in range(config.blocks_per_level)
    }
    return blocks | {"network.embed.0.weight": [config.embedding_size, 2 * config.embedding_size]}
