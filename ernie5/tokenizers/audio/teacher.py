"""What a semantic teacher of the codec gives (report §2.3, arXiv:2308.16692)."""

from typing import Protocol

import paddle


class Teacher(Protocol):
    """Features that tell what is said; `dim` numbers a frame of codes."""

    dim: int

    def features(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """float32 [batch, samples] at the codec's rate -> float32 [batch, frames, dim], without gradient.

        One row for each 80 ms; the last one may stand for fewer samples.
        """
