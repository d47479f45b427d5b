"""The dense feed-forward layer against its formula."""

import numpy as np
import paddle

from ernie5.layers.mlp import GatedMLP


def test_gated_mlp_equals_the_formula():
    layer = GatedMLP(6, 10, initializer_range=0.5)
    x = np.random.normal(size=[2, 3, 6]).astype(np.float32)
    gate, up, down = (
        getattr(layer, f"{kind}_proj").weight.numpy().astype(np.float64) for kind in ("gate", "up", "down")
    )
    expected = ((x @ gate) / (1 + np.exp(-(x @ gate))) * (x @ up)) @ down
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-5, atol=2e-6)
