"""Makes `vector_quantize.npz`: what vector-quantize-pytorch's LFQ computes, with and without its spherical option.

    pip install -e ".[parity]" && python tests/golden/make_vector_quantize.py

For LFQ and LFQ(spherical=True), which is BSQ, the file holds for random vectors the quantised output, its gradient and
the entropy of a sample. The library's batch entropy sums over all 2^d codes, ours over the bits;
they are the same number only where the batch's bits are independent, so it is stored for such a batch: every
combination of the same signs, three for each bit. ResidualLFQ halves its codes at every step, ours does not: no match.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import LFQ

PATH = Path(__file__).parent / "vector_quantize.npz"
NUM_BITS = 5
# Soft enough that no code's probability falls below 1e-5, where the library's logarithm is cut off.
INVERSE_TEMPERATURE = {"lfq": 0.3, "bsq": 1.0}


def compute(kind: str, z: torch.Tensor, independent: torch.Tensor) -> dict[str, np.ndarray]:
    """The library's results for vectors [n, d]."""
    quantizer = LFQ(dim=NUM_BITS, spherical=kind == "bsq")
    inverse_temperature = INVERSE_TEMPERATURE[kind]
    z = z.clone().requires_grad_()
    result, parts = quantizer(z[None], inv_temperature=inverse_temperature, return_loss_breakdown=True)
    result.quantized[0].mul(torch.arange(z.numel()).reshape(z.shape)).sum().backward()
    _, batch_parts = quantizer(independent[None], inv_temperature=inverse_temperature, return_loss_breakdown=True)
    values = {
        "quantized": result.quantized[0],
        "gradient": z.grad,
        "sample_entropy": parts.per_sample_entropy,
        "independent_batch_entropy": batch_parts.batch_entropy,
        "temperature": torch.tensor(1 / inverse_temperature),
    }
    return {f"{kind}.{name}": value.detach().numpy() for name, value in values.items()}


def main() -> None:
    torch.manual_seed(0)
    z = torch.randn(40, NUM_BITS)
    lengths = torch.rand(NUM_BITS) + 0.5
    independent = torch.tensor(list(product([1.0, 1.0, -1.0], repeat=NUM_BITS))) * lengths
    arrays = {"z": z.numpy(), "independent": independent.numpy()}
    for kind in INVERSE_TEMPERATURE:
        arrays |= compute(kind, z, independent)
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
