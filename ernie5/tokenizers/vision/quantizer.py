"""Binary quantisers without a lookup table: a code is the signs of a vector (report §2.2.1)."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import paddle
import paddle.nn.functional as F

from ernie5.errors import UserError

SMALLEST_NORM = 1e-4  # a shorter vector is divided by about this, so that zero has a direction (zero) and a gradient
SMALLEST_PROBABILITY = 1e-12  # under a logarithm


class Entropies(NamedTuple):
    """Of the soft codes q(c | z) of a batch, in nats of a whole code: scalars."""

    sample: paddle.Tensor  # E[H(q)]: how undecided a vector is between codes
    batch: paddle.Tensor  # the bits' entropies of E[q], summed: how evenly the batch uses them


class Quantizer(ABC):
    """Signs of z as a code of +-magnitude a bit. All methods take z of any leading dims, float32 [..., num_bits].

    Entropies are those of soft codes, q(c | z) = softmax over all 2^d codes c of -|u - c|^2 / temperature, with u the
    projected z (arXiv:2310.05737 eq. 5). All codes have one norm, so q is proportional to exp(2 u.c / temperature),
    a product over bits: bit i of c is 1 with probability sigmoid(4 magnitude u_i / temperature), independently of the
    others. E[H(q)] is therefore exactly the sum of the bits' entropies, in O(d) memory. E[q] is a mixture of products
    and no product itself; its bits' entropies sum to an upper bound of H[E q], reached where the batch's bits are
    independent (arXiv:2406.07548 §3.2, arXiv:2412.04431 §3.1 use it so), and that sum is what is maximised.
    """

    def __init__(self, num_bits: int, temperature: float = 0.01):
        """temperature of the soft codes: 0.01 in both papers' code."""
        if num_bits < 1:
            raise UserError(f"a quantiser of {num_bits} bits cannot hold a code: give it at least one")
        self.num_bits, self.temperature = num_bits, temperature

    @property
    @abstractmethod
    def magnitude(self) -> float:
        """Absolute value of each entry of a code."""

    @abstractmethod
    def project(self, z: paddle.Tensor) -> paddle.Tensor:
        """z -> the vectors of which codes are the nearest corners."""

    def bits(self, z: paddle.Tensor) -> paddle.Tensor:
        """1 where z >= 0 (also -0), else 0; without a gradient."""
        return (z >= 0).astype("float32")

    def codes(self, bits: paddle.Tensor) -> paddle.Tensor:
        """0/1 [..., num_bits] -> -magnitude and +magnitude."""
        return bits * (2 * self.magnitude) - self.magnitude

    def quantize(self, z: paddle.Tensor) -> paddle.Tensor:
        """The code of z, with the gradient of the projected z (straight through)."""
        return straight_through(self.codes(self.bits(z)), self.project(z))

    def entropies(self, z: paddle.Tensor) -> Entropies:
        """Both entropies over all leading dims of z."""
        log_odds = self.project(z).reshape([-1, self.num_bits]) * (4 * self.magnitude / self.temperature)
        margin = log_odds.abs()  # H(sigmoid(x)) is even in x; written so, nothing cancels where it is near 0
        sample = (-margin).exp().log1p() + margin * F.sigmoid(-margin)
        batch = sum(-(p * p.clip(min=SMALLEST_PROBABILITY).log()).sum() for p in _mean_probabilities(log_odds))
        return Entropies(sample.sum(-1).mean(), batch)

    def entropy_penalty(self, z: paddle.Tensor, gamma: float = 1.0) -> paddle.Tensor:
        """E[H(q)] - gamma H[E q], a scalar to minimise: vectors decided, all codes used (arXiv:2310.05737 eq. 5)."""
        entropies = self.entropies(z)
        return entropies.sample - gamma * entropies.batch


class LookupFreeQuantizer(Quantizer):
    """LFQ, arXiv:2310.05737: sign(z)."""

    @property
    def magnitude(self) -> float:
        return 1.0

    def project(self, z: paddle.Tensor) -> paddle.Tensor:
        return z


class BinarySphericalQuantizer(Quantizer):
    """BSQ, arXiv:2406.07548: sign(z / |z|) / sqrt(num_bits); vectors and codes lie on the unit sphere."""

    @property
    def magnitude(self) -> float:
        return self.num_bits**-0.5

    def project(self, z: paddle.Tensor) -> paddle.Tensor:
        return z * (z.square().sum(-1, keepdim=True) + SMALLEST_NORM**2).rsqrt()


def make_quantizer(kind: Literal["bsq", "lfq"], num_bits: int) -> Quantizer:
    """The quantiser of a tokenizer's config."""
    if kind not in _KINDS:
        raise UserError(f"quantizer: {kind!r} is not known, choose one of {', '.join(_KINDS)}")
    return _KINDS[kind](num_bits)


def straight_through(value: paddle.Tensor, source: paddle.Tensor) -> paddle.Tensor:
    """`value` to the last bit, with the gradient of `source`: what is added is exactly 0, unlike value - source."""
    return value.detach() + (source - source.detach())


def _mean_probabilities(log_odds: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """[n, d] -> mean probability of 1 and of 0 of each bit, [d]; two sums, because 1 - p of a p near 1 is rounded."""
    return F.sigmoid(log_odds).mean(0), F.sigmoid(-log_odds).mean(0)


_KINDS: dict[str, type[Quantizer]] = {"bsq": BinarySphericalQuantizer, "lfq": LookupFreeQuantizer}
