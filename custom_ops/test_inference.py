"""An exported program with compiled operators, run by Paddle Inference."""

import numpy as np
import paddle
import pytest
from paddle import inference
from paddle.static import InputSpec

from ernie5.ops import backend
from ernie5.ops.head_logits import head_logits
from ernie5.ops.moe import moe_ffn
from ernie5.ops.rms_norm import add_rms_norm, rms_norm
from ernie5.ops.router import route
from ernie5.ops.swiglu import swiglu
from ernie5.ops.uni_rope import uni_rope

pytest.importorskip("ernie5_ops")
HEADS, HEAD_DIM, EXPERTS, FFN = 4, 8, 5, 12
HIDDEN = HEADS * HEAD_DIM


class Model(paddle.nn.Layer):
    """A layer out of operators, by their faces; attention takes its columns as an input."""

    def __init__(self):
        super().__init__()
        self.norm = self.create_parameter([HIDDEN])
        self.gate = self.create_parameter([HIDDEN, EXPERTS])
        self.gate_up = self.create_parameter([EXPERTS, HIDDEN, 2 * FFN])
        self.down = self.create_parameter([EXPERTS, FFN, HIDDEN])
        self.head = self.create_parameter([50, HIDDEN])
        self.register_buffer("zeros", paddle.zeros([EXPERTS]))

    def forward(self, states, columns, cos, sin):
        normed = rms_norm(states, self.norm, 1e-5)
        heads = uni_rope(normed.reshape([0, 0, HEADS, HEAD_DIM]), cos, sin)
        attended = backend.call("flashmask_attention", [heads, heads, heads, columns], False)[0]
        normed, states = add_rms_norm(attended, states, self.norm, 1e-5)
        tokens = normed.reshape([-1, HIDDEN])
        routing = route(paddle.matmul(tokens, self.gate), self.zeros, self.zeros, 2, "softmax")
        mixed = moe_ffn(tokens, routing.topk_ids, routing.topk_weights, self.gate_up, self.down)
        states = states + swiglu(mixed, mixed).reshape([-1, normed.shape[1], HIDDEN])
        return paddle.matmul(states, self.head, transpose_y=True), routing.tokens_per_expert


class Head(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.head = self.create_parameter([50, HIDDEN])

    def forward(self, states):
        with paddle.no_grad():
            return backend.call("head_logits", [states, self.head], False)[0]


def run(path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    for name, array in zip(predictor.get_input_names(), inputs, strict=True):
        predictor.get_input_handle(name).copy_from_cpu(array)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def inputs_of(batch: int, seq: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seq)
    columns = np.stack([np.full(seq, seq), np.arange(seq)], -1)[None].astype(np.int32)
    angles = rng.uniform(0, 6, [1, seq, 1, HEAD_DIM // 2]).astype(np.float32)
    states = rng.normal(size=[batch, seq, HIDDEN]).astype(np.float32)
    return [states, columns, np.cos(angles), np.sin(angles)]


def test_a_layer_gives_the_same_at_any_length(tmp_path):
    with backend.using("native"):
        model = Model()
        model.eval()
        path = tmp_path / "model"
        specs = [
            InputSpec([None, None, HIDDEN], "float32", "states"),
            InputSpec([None, None, 2], "int32", "columns"),
            *(InputSpec([None, None, 1, HEAD_DIM // 2], "float32", name) for name in ("cos", "sin")),
        ]
        with paddle.no_grad():
            paddle.jit.save(paddle.jit.to_static(model, input_spec=specs, full_graph=True), str(path))
            program = (tmp_path / "model.json").read_text()
            for name in ("rms_norm", "flashmask_attention", "router", "moe_ffn", "swiglu", "uni_rope"):
                assert f"ernie5_{name}" in program
            for batch, seq in ((2, 70), (1, 1), (3, 9)):
                inputs = inputs_of(batch, seq)
                expected = [one.numpy() for one in model(*map(paddle.to_tensor, inputs))]
                found = run(path, inputs)
                np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
                np.testing.assert_array_equal(found[1], expected[1])


def test_logits_of_few_rows_are_the_same(tmp_path):
    with backend.using("native"), paddle.no_grad():
        layer, path = Head(), tmp_path / "head"
        layer.eval()
        spec = [InputSpec([None, HIDDEN], "float32", "states")]
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(path))
        states = np.random.default_rng(0).normal(size=[3, HIDDEN]).astype(np.float32)
        expected = head_logits(paddle.to_tensor(states), layer.head).numpy()
        np.testing.assert_array_equal(run(path, [states])[0], expected)
