"""The norm layer."""

import numpy as np
import paddle

from ernie5.layers.norm import RMSNorm
from tests.tolerances import tolerance


def test_a_new_norm_scales_every_row_to_unit_mean_square():
    layer = RMSNorm(64, 1e-5)
    rows = layer(paddle.randn([10, 64]) * 7).numpy()
    np.testing.assert_allclose((rows**2).mean(-1), 1.0, rtol=1e-5)


def test_the_weight_scales_each_dim():
    layer = RMSNorm(4, 1e-5)
    x = paddle.randn([3, 4])
    plain = layer(x).numpy()
    layer.weight.set_value(np.array([1.0, -2.0, 0.0, 3.0], np.float32))
    np.testing.assert_allclose(layer(x).numpy(), plain * [1, -2, 0, 3], **tolerance("float32"))
