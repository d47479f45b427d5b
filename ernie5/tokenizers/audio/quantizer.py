"""Residual vector quantisation: each level codes what the levels before have left (report §2.3, arXiv:2107.03312).

Codebooks follow running means of the vectors that chose each code (arXiv:1711.00937 appendix A.1), not a gradient. The
functions are pure: what they return depends on the latents, the codebooks and the generator that they are given.

A vector takes the code at the smallest distance, of equals the lowest. Distances are computed a vector at a time, so
that a code does not depend on the vectors beside it; other processors and libraries round sums otherwise, so two codes
that are nearest to within rounding may change places between devices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.errors import UserError

DECAY = 0.99  # of the running means (arXiv:2107.03312 §3.3)
SMOOTHING = 1e-5  # added to each code's count, so that a code of none does not divide by zero (Laplace)
DEAD_SHARE = 0.1  # of the mean count: a code that has less is dead
KMEANS_ITERATIONS = 10


class Codebooks(NamedTuple):
    """The state of the Q levels, of K codes of d entries each, float32."""

    vectors: paddle.Tensor  # [Q, K, d]
    sums: paddle.Tensor  # [Q, K, d]: running mean of the sum of the vectors that chose a code
    counts: paddle.Tensor  # [Q, K]: running mean of their number; all 0 before the first batch


class Quantized(NamedTuple):
    """What Q levels make of latents [batch, frames, d]. `latents` and `first` carry the gradient of the input."""

    codes: paddle.Tensor  # int64 [batch, frames, Q]: of all levels, also of those that a clip leaves out
    latents: paddle.Tensor  # float32 [batch, frames, d]: the sum of the levels that a clip keeps
    first: paddle.Tensor  # float32 [batch, frames, d]: level 0 alone
    commitment: paddle.Tensor  # float32 [Q]: mean squared distance of a level's residuals from its vectors
    residuals: list[paddle.Tensor]  # [q] float32 [batch * frames, d]: what level q quantised, without a gradient


class ResidualVectorQuantizer(nn.Layer):
    """Holds the codebooks as buffers, so that a saved network has them.

    A step of training is `initialise` once, the call, and `learn` with what the call gave.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, latent_size: int):
        super().__init__()
        if min(num_codebooks, codebook_size, latent_size) < 1:
            raise UserError(
                f"a quantiser of {num_codebooks} codebooks of {codebook_size} codes of {latent_size} entries cannot "
                "hold a code: give at least one of each"
            )
        vectors = paddle.randn([num_codebooks, codebook_size, latent_size])
        self.register_buffer("vectors", vectors)
        self.register_buffer("sums", paddle.zeros_like(vectors))
        self.register_buffer("counts", paddle.zeros(vectors.shape[:2]))

    @property
    def codebooks(self) -> Codebooks:
        return Codebooks(self.vectors, self.sums, self.counts)

    @property
    def initialised(self) -> bool:
        """Whether the codebooks have seen data."""
        return bool((self.counts.sum() > 0).item())

    def forward(self, latents: paddle.Tensor, levels: Sequence[int] | None = None) -> Quantized:
        """`quantize` with these codebooks, which stay as they are."""
        return quantize(latents, self.vectors, levels)

    def decode(self, codes: paddle.Tensor, levels: int | None = None) -> paddle.Tensor:
        """int64 [batch, frames, >= levels] -> float32 [batch, frames, d], the sum of the first levels (all of codes).

        Added in the order of the levels: to the last bit what `forward` gives for these codes.
        """
        levels = codes.shape[-1] if levels is None else levels
        self._check(codes, levels)
        total = paddle.zeros([*codes.shape[:-1], self.vectors.shape[-1]])
        for q in range(levels):
            total = total + look_up(self.vectors[q], codes[..., q])
        return total

    def initialise(self, latents: paddle.Tensor, rng: np.random.Generator, batches: float = 1.0) -> None:
        """Codebooks from latents [batch, frames, d] by k-means, level after level.

        batches: of training that the latents are as many as. The running means begin with those of one, or codebooks
        found from many would not follow the latents for hundreds of steps.
        """
        vectors, sums, counts = initial_codebooks(latents, *self.counts.shape, rng)
        self._set(Codebooks(vectors, sums / batches, counts / batches))

    def learn(self, quantized: Quantized, rng: np.random.Generator) -> None:
        """Moves the codebooks towards the vectors that chose them, and revives dead codes."""
        self._set(updated(self.codebooks, quantized, rng))

    def _set(self, codebooks: Codebooks) -> None:
        for buffer, value in zip(self.codebooks, codebooks, strict=True):
            buffer.set_value(value)

    def _check(self, codes: paddle.Tensor, levels: int) -> None:
        num_codebooks, codebook_size = self.counts.shape
        if not 1 <= levels <= min(codes.shape[-1], num_codebooks):
            raise UserError(
                f"{levels} levels of codes {list(codes.shape)}: the audio tokenizer has {num_codebooks}, give 1 to "
                f"{min(codes.shape[-1], num_codebooks)}"
            )
        used = codes[..., :levels]
        if codes.size and not 0 <= int(used.min()) <= int(used.max()) < codebook_size:
            raise UserError(
                f"codes from {int(used.min())} to {int(used.max())}: the audio tokenizer has 0 to {codebook_size - 1}"
            )


def quantize(latents: paddle.Tensor, vectors: paddle.Tensor, levels: Sequence[int] | None = None) -> Quantized:
    """latents [batch, frames, d] of any float dtype, computed on in float32; vectors [Q, K, d].

    levels: how many a clip keeps in its sum, 1 to Q each (`draw_levels`); all without it.
    """
    latents = latents.astype("float32")
    rows = latents.reshape([-1, latents.shape[-1]])
    residual, total = rows.detach(), paddle.zeros_like(rows)
    kept = None if levels is None else _row_levels(levels, latents.shape)
    codes, residuals, commitment, first = [], [], [], None
    for q in range(vectors.shape[0]):
        codes.append(nearest(residual, vectors[q]))
        residuals.append(residual)
        chosen = look_up(vectors[q], codes[q])
        commitment.append((straight_through(residual, rows) - chosen).square().mean())
        residual = residual - chosen
        total = total + (chosen if kept is None else chosen * (kept > q).astype("float32"))
        first = chosen if first is None else first
    return Quantized(
        codes=paddle.stack(codes, axis=-1).reshape([*latents.shape[:-1], -1]),
        latents=straight_through(total.reshape(latents.shape), latents),
        first=straight_through(first.reshape(latents.shape), latents),
        commitment=paddle.stack(commitment),
        residuals=residuals,
    )


@paddle.no_grad()
def nearest(rows: paddle.Tensor, vectors: paddle.Tensor) -> paddle.Tensor:
    """rows [n, d], vectors [K, d] -> int64 [n]: the nearest vector of each row. Memory O(n K).

    The products are a convolution over n pieces of one sample, which Paddle multiplies one by one on a CPU: those of a
    matrix product would depend on n in their last bits. For this K is a multiple of 16, as in `causal_layers`.
    """
    products = F.conv1d(rows.unsqueeze(-1), vectors.unsqueeze(-1)).squeeze(-1)
    return (vectors.square().sum(-1) - 2 * products).argmin(axis=-1)


@paddle.no_grad()
def updated(codebooks: Codebooks, quantized: Quantized, rng: np.random.Generator, decay: float = DECAY) -> Codebooks:
    """The codebooks after one batch: running means, vector = sum / count, dead codes put on residuals of the batch."""
    levels = []
    for q, residual in enumerate(quantized.residuals):
        _, sums, counts = (part[q] for part in codebooks)
        chosen = F.one_hot(quantized.codes[..., q].flatten(), counts.shape[0])  # [n, K]
        counts = decay * counts + (1 - decay) * chosen.sum(0)
        sums = decay * sums + (1 - decay) * chosen.matmul(residual, transpose_x=True)
        levels.append(_revived(Codebooks(sums / _smoothed(counts).unsqueeze(-1), sums, counts), residual, rng))
    return _stacked(levels)


@paddle.no_grad()
def initial_codebooks(
    latents: paddle.Tensor, num_codebooks: int, codebook_size: int, rng: np.random.Generator
) -> Codebooks:
    """k-means of the latents [batch, frames, d], then of what each level leaves.

    It begins at vectors of the batch, some of them twice where there are fewer than codes; a code that none chooses
    stays where it is with a count of 0, and the first `updated` revives it.
    """
    residual = latents.astype("float32").reshape([-1, latents.shape[-1]])
    levels = []
    for _ in range(num_codebooks):
        vectors = residual.gather(paddle.to_tensor(_drawn(residual.shape[0], codebook_size, rng)))
        for _ in range(KMEANS_ITERATIONS):
            chosen = F.one_hot(nearest(residual, vectors), codebook_size)
            counts = chosen.sum(0)
            sums = chosen.matmul(residual, transpose_x=True)
            means = sums / counts.clip(min=1).unsqueeze(-1)
            vectors = paddle.where(counts.unsqueeze(-1) > 0, means, vectors)
        levels.append(Codebooks(vectors, vectors * counts.unsqueeze(-1), counts))
        residual = residual - look_up(vectors, nearest(residual, vectors))
    return _stacked(levels)


def draw_levels(batch: int, num_codebooks: int, dropout: float, rng: np.random.Generator) -> list[int]:
    """How many levels each clip keeps: all, or with probability `dropout` 1 to Q alike (arXiv:2306.06546 §3.3)."""
    fewer = rng.integers(1, num_codebooks + 1, batch)
    return np.where(rng.random(batch) < dropout, fewer, num_codebooks).tolist()


def look_up(vectors: paddle.Tensor, codes: paddle.Tensor) -> paddle.Tensor:
    """vectors [K, d], int64 codes of any shape -> float32 [*codes.shape, d]."""
    return vectors.gather(codes.flatten()).reshape([*codes.shape, -1])


def straight_through(value: paddle.Tensor, source: paddle.Tensor) -> paddle.Tensor:
    """`value` to the last bit, with the gradient of `source`: what is added is exactly 0, unlike value - source."""
    return value.detach() + (source - source.detach())


def _smoothed(counts: paddle.Tensor) -> paddle.Tensor:
    """Counts [K] of the same sum, none of them 0."""
    total = counts.sum()
    return (counts + SMOOTHING) / (total + counts.shape[0] * SMOOTHING) * total


def _revived(level: Codebooks, residual: paddle.Tensor, rng: np.random.Generator) -> Codebooks:
    """Puts dead codes of one level on residuals [n, d], each on another one, with the mean count."""
    counts = level.counts.numpy()
    dead = rng.permutation(np.flatnonzero(counts < DEAD_SHARE * counts.mean()))[: residual.shape[0]]
    if not dead.size:
        return level
    places = paddle.to_tensor(dead)
    fresh = residual.gather(paddle.to_tensor(_drawn(residual.shape[0], dead.size, rng)))
    count = float(counts.mean())
    return Codebooks(
        vectors=level.vectors.scatter(places, fresh),
        sums=level.sums.scatter(places, fresh * count),
        counts=level.counts.scatter(places, paddle.full([dead.size], count)),
    )


def _drawn(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` of n rows in random order, none twice before all were taken."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-size // n))])[:size]


def _row_levels(levels: Sequence[int], shape: Sequence[int]) -> paddle.Tensor:
    """[batch] -> int64 [batch * frames, 1]."""
    return paddle.to_tensor(np.repeat(np.asarray(levels, np.int64), shape[1])).unsqueeze(-1)


def _stacked(levels: list[Codebooks]) -> Codebooks:
    return Codebooks(*(paddle.stack(list(parts)) for parts in zip(*levels, strict=True)))
