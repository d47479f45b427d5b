"""Fair chance: every item as often as any other."""

from typing import Any

import numpy as np


class Deck:
    """Deals items in random order, each as often as any other; shuffled anew when it is empty."""

    def __init__(self, items: list, rng: np.random.Generator):
        self.items, self.rng, self.left = items, rng, []

    def deal(self) -> Any:
        if not self.left:
            self.left = self.rng.permutation(len(self.items)).tolist()
        return self.items[self.left.pop()]
