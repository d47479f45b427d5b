"""Makes `residual_vq.npz`: what vector-quantize-pytorch's ResidualVQ computes, and its codebooks after one step.

    pip install -e ".[parity]" && python tests/golden/make_residual_vq.py

The codebooks and the running counts before the step are random. Its dead codes are left dead (threshold 0) and its
codebooks are not initialised by k-means, because both draw from the library's own generator.
"""

from pathlib import Path

import numpy as np
import torch
from vector_quantize_pytorch import ResidualVQ

PATH = Path(__file__).parent / "residual_vq.npz"
LEVELS, CODES, SIZE = 3, 16, 6
DECAY = 0.99


def state(model: ResidualVQ, when: str) -> dict[str, np.ndarray]:
    """The codebooks of all levels, as copies."""
    names = {"vectors": "embed", "sums": "embed_avg", "counts": "cluster_size"}
    books = [layer._codebook for layer in model.layers]
    return {
        f"{when}.{name}": np.stack([getattr(book, theirs)[0].numpy() for book in books])
        for name, theirs in names.items()
    }


def main() -> None:
    torch.manual_seed(0)
    model = ResidualVQ(
        dim=SIZE,
        num_quantizers=LEVELS,
        codebook_size=CODES,
        decay=DECAY,
        threshold_ema_dead_code=0,
        commitment_weight=1.0,
    )
    for level, layer in enumerate(model.layers):
        book = layer._codebook
        book.embed.copy_(torch.randn_like(book.embed) * 0.6**level)
        book.cluster_size.copy_(torch.rand_like(book.cluster_size) * 4)
        book.embed_avg.copy_(book.embed * book.cluster_size[..., None])
    latents = torch.randn(2, 20, SIZE)
    arrays = {"latents": latents.numpy(), "decay": np.float64(DECAY)} | state(model, "before")
    model.train()
    quantized, codes, commitment = model(latents)
    arrays |= {
        "quantized": quantized.numpy(),
        "codes": codes.numpy(),
        "commitment": commitment.detach().flatten().numpy(),
    }
    arrays |= state(model, "after")
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {PATH.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
