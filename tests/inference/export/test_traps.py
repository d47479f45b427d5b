"""What Paddle 3.3.1 gets wrong without a word, and what keeps programs out of it.

Each of these shows the trap itself where that can be done, so that an upgrade that mends it tells, and then that our
way round it holds.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import inference, nn
from paddle.static import InputSpec

import ernie5
from ernie5.errors import Fault
from ernie5.inference.export.expert_mixing import MixingDispatcher
from ernie5.inference.export.part import Part, write_part
from ernie5.inference.predictor.program import Program
from ernie5.model.folder import from_pretrained
from ernie5.model.safetensors_file import map_file, write_file
from ernie5.ops import backend


class Function(nn.Layer):
    """A layer out of a function, with a weight, because a program wants one."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x):
        return self.function(x, self.weight)


def part_of(function, example, dtype="float32") -> Part:
    spec = InputSpec([None] * example.ndim, dtype, "x")
    return Part("part", Function(function), [spec], ["y"], [example])


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a part of any operators and opens it."""
    monkeypatch.setattr("ernie5.inference.export.part.refuse_unknown", lambda operators, source: None)

    def write(part: Part) -> Program:
        write_part(part, tmp_path)
        return Program(tmp_path / "part.json", tmp_path / "part.pdiparams", part.described()["inputs"])

    return write


def counted(x, weight):
    chosen = nn.functional.one_hot(x, 5).astype("int64")
    return (paddle.cumsum(chosen, 0) - chosen).astype("float32") * weight


def test_onednn_is_off_where_it_would_compute_another_routing(written, tmp_path):
    """S1: it is on unless it is switched off, and takes cumsum(one_hot) for nothing but zeros."""
    ids = np.array([1, 2, 1, 1, 0])
    (found,) = written(part_of(counted, ids, "int64"))(paddle.to_tensor(ids))
    expected = np.cumsum(np.eye(5)[ids], 0) - np.eye(5)[ids]
    np.testing.assert_array_equal(found.numpy(), expected)
    config = inference.Config(str(tmp_path / "part.json"), str(tmp_path / "part.pdiparams"))
    config.disable_glog_info()
    assert config.mkldnn_enabled()
    wrong = inference.create_predictor(config).run([paddle.to_tensor(ids)])[0].numpy()
    assert not np.array_equal(wrong, expected), "Paddle has mended it"


def test_outputs_belong_to_the_caller(written):
    """S2: the next run overwrites what this one gave."""
    program = written(part_of(lambda x, w: x * w + 1.0, np.ones([3], np.float32)))
    (first,) = program(paddle.full([3], 1.0))
    program(paddle.full([3], 7.0))
    assert first.tolist() == [2.0, 2.0, 2.0]


def test_a_program_that_gives_its_input_is_found_when_it_is_written(written):
    """S3: `input + constant` as an output is written as the input itself, or under a name that cannot be asked for."""
    with pytest.raises((Fault, ValueError, RuntimeError)):
        written(part_of(lambda x, w: [x * w, x + 1.0], np.ones([3], np.float32)))


@pytest.mark.filterwarnings("ignore:amp_guard can only be enabled")
def test_no_casts_of_mixed_precision_are_written(written):
    """S8: under auto_cast a traced program gets them, though on a CPU the layer itself makes none."""
    example = np.random.default_rng(0).normal(size=[2, 4]).astype(np.float32)
    part = part_of(lambda x, w: paddle.matmul(x, x, transpose_y=True) * w, example)
    with paddle.amp.auto_cast(enable=True, dtype="bfloat16", level="O1"):
        program = written(part)
    (found,) = program(paddle.to_tensor(example))
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), example @ example.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (paddle.zeros([3], "float64"), r"x is float64 \[3\], expected float32 \[-1\]"),
        (paddle.zeros([3], "int32"), r"x is int32 \[3\]"),
        (paddle.zeros([3, 1]), r"x is float32 \[3, 1\]"),
    ],
)
def test_inputs_of_another_dtype_or_rank_are_refused(written, given, sentence):
    """Paddle takes them as they are, or casts them."""
    program = written(part_of(lambda x, w: x * w * 2.0, np.ones([3], np.float32)))
    with pytest.raises(Fault, match=sentence):
        program(given)
    with pytest.raises(Fault, match="takes 1 inputs, not 2"):
        program(given, given)


def test_experts_without_tokens_and_no_tokens_at_all_are_nothing(tiny_model_config):
    """Fixed shapes, no loop over experts: also for counts that a program has not seen when it was written."""
    from ernie5.layers.moe import MoE

    paddle.seed(0)
    layer = MoE(32, tiny_model_config.moe, 0.3)
    mask, states = paddle.zeros([8]), paddle.randn([40, 32])
    with paddle.no_grad():
        for count in (40, 3, 1, 0):
            expected = layer(states[:count].unsqueeze(0), mask, 2).hidden_states
            own, layer.dispatcher = layer.dispatcher, MixingDispatcher()
            found = layer(states[:count].unsqueeze(0), mask, 2).hidden_states
            layer.dispatcher = own
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_mask_is_spelled_out_where_a_cache_stands_before_the_queries():
    """S5: Paddle's own causal attention lets one query see the first key alone."""
    query, keys = paddle.randn([1, 1, 2, 8]), paddle.randn([1, 5, 2, 8])
    causal = nn.functional.scaled_dot_product_attention(query, keys, keys, is_causal=True)
    assert np.allclose(causal.numpy(), keys[:, :1].numpy(), atol=1e-6), "Paddle has mended it"
    from ernie5.inference.export.columns_mask import ColumnsMask, attend_under_columns
    from ernie5.ops.attention import Mask, flashmask_attention

    columns = np.stack([np.full(5, 1), np.zeros(5)], -1)[None].astype(np.int32)
    found = attend_under_columns(query, keys, keys, ColumnsMask(paddle.to_tensor(columns), 1))
    expected = flashmask_attention(query, keys, keys, Mask(1, 5, columns))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(backend._register() != "", reason="not compiled")
def test_integers_between_compiled_operators_do_not_stop_gradients():
    """S4: Paddle takes integers that an operator gives for differentiable; handed on, they may silence gradients."""
    states, zeros = paddle.rand([3, 8]), paddle.zeros([8])
    states.stop_gradient = False
    raw = paddle._C_ops._run_custom_op("ernie5_router", states, zeros, zeros, 2, "softmax", 1.0)
    assert not raw[0].stop_gradient, "Paddle has mended it"
    with backend.using("native"):
        ids = backend.call("router", [states, zeros, zeros], 2, "softmax", 1.0)[0]
        token_ids, _, row_ids, _ = backend.call("sort_by_expert", [raw[0]], 8, 1)
        assert ids.stop_gradient and token_ids.stop_gradient and row_ids.stop_gradient
        backend.call("moe_permute", [states, token_ids, row_ids])[0].sum().backward()
    np.testing.assert_array_equal(states.grad.numpy(), np.full([3, 8], 2.0))


def test_weights_of_another_dtype_are_read_as_their_values(tiny_model_config, make_folder):
    """S6, S7: Paddle's reader of spread checkpoints may read them as bytes, or leave zeros on a CPU. Ours is used."""
    folder = make_folder(tiny_model_config)
    expected = from_pretrained(folder).state_dict()
    (path,) = folder.glob("*.safetensors")
    write_file(path, {name: paddle.to_tensor(array).astype("bfloat16") for name, array in map_file(path).items()})
    found = from_pretrained(folder).state_dict()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].astype("float32").numpy(), tensor.numpy(), rtol=2**-8, err_msg=name)
    assert not calls_of("load_state_dict", "paddle.distributed", "dist", "distributed.checkpoint")


def test_no_loop_of_paddle_runs_in_dygraph():
    """S9: there it writes into the variables that it is given."""
    word = paddle.to_tensor([1])
    paddle.static.nn.while_loop(lambda n, out: (n < 3).all(), lambda n, out: [n + 1, out * 2], [word, word])
    assert word.item() != 1, "Paddle has mended it"
    assert not calls_of("while_loop", "nn", "paddle.static.nn")


def calls_of(function: str, *modules: str) -> list[Path]:
    """Our files that call it."""
    package = Path(ernie5.__file__).parent
    return [
        file for file in package.rglob("*.py") for one in modules if f"{one}.{function}(" in file.read_text("utf-8")
    ]
