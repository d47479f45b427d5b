"""Paddle's way to the kernels for GPUs: each operator, through its face, against its definition in float32.

On a machine with a GPU and a Paddle for it these tests run on it. Elsewhere `test_emulated` compiles the bindings with
the kernels emulated on the CPU (common/cuda_emulation.h) and runs the rest of this file with them in another process.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from custom_ops import build_capi, setup
from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.ops import backend
from ernie5.ops.attention import Mask, flashmask_attention
from ernie5.ops.bitwise_cross_entropy import bitwise_cross_entropy
from ernie5.ops.cross_entropy import linear_cross_entropy
from ernie5.ops.moe import expert_ffn, moe_ffn, moe_permute, moe_unpermute, sort_by_expert
from ernie5.ops.rms_norm import add_rms_norm, rms_norm
from ernie5.ops.router import route
from ernie5.ops.swiglu import swiglu
from ernie5.ops.uni_rope import uni_rope
from tests.sequences import packed_batch, random_documents

HERE = Path(__file__).resolve().parent
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 2e-2}  # of the norm of the result


def has_kernels() -> bool:
    with backend.using("auto"):
        return backend.on_gpu() and backend.is_native("rms_norm")


needs_kernels = pytest.mark.skipif(not has_kernels(), reason="needs ernie5_ops with kernels for GPUs, and a GPU")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(setup.CXX[0]) is None, reason="needs a C++ compiler")
@pytest.mark.skipif(has_kernels(), reason="the kernels are here themselves")
def test_emulated(tmp_path):
    package = tmp_path / "ernie5_ops"
    package.mkdir()
    about = setup.compile_all(tmp_path / "build", package / "libernie5_ops.so", emulate_cuda=True)
    (package / "build.json").write_text(json.dumps(about), encoding="utf-8")
    shutil.copy(HERE / "__init__.py", package)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(HERE.parent)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ops", "native", __file__]
    done = subprocess.run([*command, "-k", "not emulated"], env=environment, text=True, capture_output=True)
    assert done.returncode == 0 and " skipped" not in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(build_capi.find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("source", sorted(HERE.glob("*/op.cc")), ids=lambda path: path.parent.name)
def test_the_binding_compiles_for_a_paddle_with_cuda(source):
    paddle_include = setup.find_paddle() / "include"
    include = [f"-I{HERE}", f"-I{paddle_include}", f"-I{paddle_include}/third_party"]
    flags = [*setup.BINDING, *setup.binding_flags(cuda=True, emulate_cuda=False), "-fsyntax-only"]
    setup.run([*setup.CXX, *flags, *include, source])


class Given:
    """Inputs of one seed, rounded to a dtype, in that dtype and in float32."""

    def __init__(self, dtype: str, seed: int = 0):
        self.dtype, self.random = dtype, np.random.default_rng(seed)

    def normal(self, *shape: int, dtype: str = "", scale: float = 1.0) -> paddle.Tensor:
        values = paddle.to_tensor(self.random.normal(0, scale, shape).astype("float32"))
        values = values.astype(dtype or self.dtype).detach()
        values.stop_gradient = False
        return values


def results(run, tensors) -> list[np.ndarray]:
    """Float outputs and the gradients of the tensors that want them, each output weighed by a pattern."""
    outputs = run(*tensors)
    outputs = [one for one in (outputs if isinstance(outputs, (list, tuple)) else [outputs]) if one is not None]
    floats = [one for one in outputs if one.dtype not in (paddle.int64, paddle.int32)]
    wanted = [tensor for tensor in tensors if not tensor.stop_gradient]
    total = sum((one.astype("float32") * pattern(one.shape)).sum() for one in floats)
    grads = paddle.grad(total, wanted) if wanted else []
    return [one.astype("float32").numpy() for one in [*outputs, *grads]]


def pattern(shape) -> paddle.Tensor:
    return paddle.to_tensor(np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape).astype("float32"))


def agree(run, tensors, tolerance: float) -> None:
    """`run` by the kernels, on `tensors`, and by the definitions, on their values in float32."""
    with backend.using("native"):
        found = results(run, tensors)
    wide = [tensor.astype("float32").detach() if tensor.dtype != paddle.int64 else tensor for tensor in tensors]
    for one, tensor in zip(wide, tensors, strict=True):
        one.stop_gradient = tensor.stop_gradient
    with backend.using("reference"):
        expected = results(run, wide)
    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.shape == other.shape, place
        error = np.linalg.norm(one - other)
        assert error <= tolerance * max(np.linalg.norm(other), 1e-6), (place, error, np.linalg.norm(other))


def native(operator: str, dtypes: backend.Dtypes, *tensors: paddle.Tensor) -> None:
    with backend.using("native"):
        assert backend.takes(operator, dtypes, *tensors), f"{operator} would be worked out by its definition"


each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])


@needs_kernels
@each_dtype
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_rms_norm(dtype, rows):
    given = Given(dtype)
    x, residual, weight = given.normal(rows, 3, 72), given.normal(rows, 3, 72), given.normal(72)
    native("rms_norm", backend.FLOATS, x, weight)
    agree(lambda x, weight: rms_norm(x, weight, 1e-5), [x, weight], TOLERANCES[dtype])
    agree(lambda *tensors: add_rms_norm(*tensors, 1e-5), [x, residual, weight], TOLERANCES[dtype])


@needs_kernels
@each_dtype
@pytest.mark.parametrize("width", [7, 64])
def test_swiglu(dtype, width):
    given = Given(dtype)
    gate, up, both = given.normal(2, 9, width), given.normal(2, 9, width), given.normal(2, 9, 2 * width)
    native("swiglu", backend.FLOATS, gate, up)
    native("swiglu_packed", backend.FLOATS, both)
    agree(swiglu, [gate, up], TOLERANCES[dtype])
    agree(swiglu, [both], TOLERANCES[dtype])


@needs_kernels
@each_dtype
@pytest.mark.parametrize("shared", [True, False])
def test_uni_rope(dtype, shared):
    given = Given(dtype)
    states, angles = given.normal(2, 5, 3, 32), given.normal(1 if shared else 2, 5, 1, 16, dtype="float32", scale=3)
    native("uni_rope", backend.FLOATS, states)
    cos, sin = angles.cos().detach(), angles.sin().detach()
    agree(lambda states, cos, sin: uni_rope(states, cos, sin), [states, cos, sin], TOLERANCES[dtype])


@needs_kernels
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_router(score, tokens):
    given = Given("float32", seed=tokens)
    logits, bias = given.normal(tokens, 40), given.normal(40, scale=0.1).detach()
    mask = paddle.to_tensor(np.where(np.arange(40) % 9 == 4, -np.inf, 0).astype("float32"))
    with backend.using("native"):
        native_ids, _, counts = route(logits, bias, mask, 3, score, 2.5)
    assert counts.numpy().tolist() == np.bincount(native_ids.numpy().ravel(), minlength=40).tolist()
    agree(lambda logits: route(logits, bias, mask, 3, score, 2.5), [logits], 2e-5)


def chosen(tokens: int, experts: int, top_k: int) -> paddle.Tensor:
    random = np.random.default_rng(tokens)
    return paddle.to_tensor(np.argsort(random.random([tokens, experts]) + np.arange(experts) / experts)[:, :top_k])


@needs_kernels
@each_dtype
@pytest.mark.parametrize("alignment", [1, 8])
def test_moves(dtype, alignment):
    given, ids = Given(dtype), chosen(30, 5, 2)
    permutations = []
    for mode in ("native", "reference"):
        with backend.using(mode):
            permutations.append(sort_by_expert(ids, 5, alignment))
    for name in ("token_ids", "slot_ids", "row_ids", "tokens_per_expert"):
        np.testing.assert_array_equal(*(getattr(one, name).numpy() for one in permutations))
    x, rows = given.normal(30, 24), given.normal(permutations[0].token_ids.shape[0], 24)
    weights = given.normal(30, 2, dtype="float32")
    native("moe_permute", backend.FLOATS, x)

    def back(rows, *weights):
        return moe_unpermute(rows, permutations[0], *weights)

    agree(lambda x: moe_permute(x, permutations[0]), [x], TOLERANCES[dtype])
    agree(back, [rows], TOLERANCES[dtype])
    agree(back, [rows, weights], TOLERANCES[dtype])


@needs_kernels
@pytest.mark.parametrize(("tokens", "experts"), [(0, 4), (1, 4), (40, 5)])
def test_expert_ffn(tokens, experts):
    given, ids = Given("bfloat16"), chosen(tokens, experts, 2)
    x, weights = given.normal(tokens, 24), given.normal(tokens, 2, dtype="float32")
    gate_up, down = given.normal(experts, 24, 32, scale=0.2), given.normal(experts, 16, 24, scale=0.25)
    with backend.using("native"):
        permutation = sort_by_expert(ids, experts)
    row_weights = given.normal(2 * tokens, dtype="float32")
    counts = permutation.tokens_per_expert
    rows = given.normal(2 * tokens, 24)

    def experts_alone(rows, row_weights, gate_up, down):
        return expert_ffn(rows, row_weights, counts, gate_up, down)

    def whole(x, weights, gate_up, down):
        return moe_ffn(x, ids, weights, gate_up, down)

    if tokens == 0:  # the definition has no empty product
        with backend.using("native"):
            found = results(whole, [x, weights, gate_up, down])
        assert found[0].shape == (0, 24) and not any(np.abs(one).any() for one in found[3:])
        return
    agree(experts_alone, [rows, row_weights, gate_up, down], TOLERANCES["bfloat16"])
    agree(whole, [x, weights, gate_up, down], TOLERANCES["bfloat16"])


def masks(queries: int, keys: int, random: np.random.Generator) -> dict[str, Mask]:
    ends = np.where(np.arange(keys) < keys // 3, keys // 3, keys).astype(np.int32)
    starts = np.where(np.arange(keys) < keys // 3, 0, keys // 3).astype(np.int32)
    holes = np.sort(random.integers(0, queries + 1, [2, keys, 4]), -1).astype(np.int32)
    return {
        "full": Mask(queries, keys),
        "causal": Mask(queries, keys, causal=True),
        "documents": Mask(queries, keys, ends[None, :, None], causal=True),
        "gaps": Mask(queries, keys, holes[..., :2], causal=True),
        "blocks": Mask(queries, keys, np.stack([ends, starts], -1)[None]),
        "holes": Mask(queries, keys, holes),
    }


@needs_kernels
@pytest.mark.parametrize("kind", ["full", "causal", "documents", "gaps", "blocks", "holes"])
@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(70, 70, 64), (33, 90, 128), (1, 66, 64)])
def test_attention(kind, queries, keys, head_dim):
    given = Given("bfloat16", seed=queries)
    mask = masks(queries, keys, given.random)[kind]
    query = given.normal(2, queries, 4, head_dim)
    key, value = given.normal(2, keys, 2, head_dim), given.normal(2, keys, 2, head_dim)
    native("flashmask_attention", backend.FLOATS, query, key, value)
    agree(lambda *tensors: flashmask_attention(*tensors, mask), [query, key, value], TOLERANCES["bfloat16"])


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"] if paddle.is_compiled_with_cuda() else ["float32"])
@pytest.mark.parametrize("hidden_first", [True, False])
@pytest.mark.parametrize("rows", [0, 3, 40])  # emulated, 25 rows of logits exist at once
def test_linear_cross_entropy(dtype, hidden_first, rows):
    """The products are Paddle's, which has none of 16 bits on the CPU."""
    given = Given(dtype)
    x, weight = given.normal(rows, 16), given.normal(*([16, 40] if hidden_first else [40, 16]))
    labels = given.random.integers(0, 40, rows)
    labels[1::3] = -100
    labels, weights = paddle.to_tensor(labels.astype("int64")), given.normal(rows, dtype="float32").detach()
    native("linear_cross_entropy", backend.FLOATS, x, weight)
    if rows == 0:
        with backend.using("native"):
            found = results(lambda x, w: linear_cross_entropy(x, w, labels, weights, -100, hidden_first), [x, weight])
        assert found[0] == 0 and found[2].shape == tuple(weight.shape) and not found[2].any()
        return
    agree(
        lambda x, weight: linear_cross_entropy(x, weight, labels, weights, -100, hidden_first),
        [x, weight],
        TOLERANCES[dtype],
    )


@needs_kernels
@each_dtype
@pytest.mark.parametrize("rows", [0, 1, 45])
def test_bitwise_cross_entropy(dtype, rows):
    given = Given(dtype)
    logits, weights = given.normal(rows, 24, scale=3), given.normal(rows, dtype="float32").detach()
    targets = paddle.to_tensor(given.random.integers(0, 2, [rows, 19]).astype("float32"))
    native("bitwise_cross_entropy", backend.FLOATS, logits)
    agree(lambda logits: bitwise_cross_entropy(logits, targets, weights), [logits], TOLERANCES[dtype])


@needs_kernels
def test_what_has_no_kernel_goes_by_its_definition():
    narrow = Given("float32").normal(1, 5, 2, 32)
    wide = Given("float32").normal(3, 8)
    agree(lambda one: flashmask_attention(one, one, one, Mask(5, 5, causal=True)), [narrow], 2e-5)
    with backend.using("native"):
        assert not backend.takes("rms_norm", backend.FLOATS, wide.astype("float64"))
        assert not backend.takes("expert_ffn", backend.Dtypes((paddle.float32,), ()), wide)


@needs_kernels
def test_wrong_inputs_end_in_a_sentence():
    given = Given("bfloat16")
    with backend.using("native"):
        with pytest.raises(OSError, match="flashmask_attention: head_dim is 32, the kernel for GPUs takes 64 and 128"):
            states = given.normal(1, 2, 1, 32)
            backend.call("flashmask_attention", [states, states, states, Mask(2, 2).columns], False)
        with pytest.raises(OSError, match="rms_norm: dtype float64 has no kernel for GPUs"):
            backend.call("rms_norm", [paddle.ones([2, 8], "float64"), paddle.ones([8], "float64")], 1e-5)
        with pytest.raises(OSError, match="hidden 12 and ffn 8 must be multiples of 8"):
            counts = paddle.to_tensor([2])
            experts = [given.normal(1, 12, 16), given.normal(1, 8, 12)]
            backend.call("expert_ffn", [given.normal(2, 12), paddle.ones([2]), counts, *experts], True)
        with pytest.raises(OSError, match="router: the kernel for GPUs was not started: invalid argument"):
            none = paddle.zeros([1100])
            backend.call("router", [paddle.zeros([1, 1100]), none, none], 2, "softmax", 1.0)


@needs_kernels
@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_a_traced_program_calls_them():
    given = Given("float32")
    x, weight = given.normal(6, 16), given.normal(16)

    def norm(x, weight):
        return rms_norm(x, weight, 1e-5)

    with backend.using("native"):
        traced = paddle.jit.to_static(norm, full_graph=True)
        np.testing.assert_array_equal(traced(x, weight).numpy(), norm(x, weight).numpy())


@needs_kernels
def test_a_whole_model_learns_the_same():
    """Loss and gradients in float32; experts and attention, whose kernels are for bfloat16, by their definitions."""
    moe = MoEConfig(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1)
    attention = AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    config = ModelConfig(name="tiny", vocab_size=96, hidden_size=32, num_hidden_layers=2, attention=attention, moe=moe)
    batch = packed_batch([random_documents([9, 4, 20], 96)], length=40)

    def losses_and_gradients():
        paddle.seed(0)
        model = Ernie5ForCausalLM(config)
        losses = model(make_batch(batch), full_subnet(config))
        losses.text.backward()
        named = model.named_parameters()
        return float(losses.text), {name: one.grad.numpy() for name, one in named if one.grad is not None}

    with backend.using("native"):
        loss, grads = losses_and_gradients()
    with backend.using("reference"):
        expected_loss, expected = losses_and_gradients()
    assert loss == pytest.approx(expected_loss, rel=1e-5) and grads.keys() == expected.keys()
    for name, grad in grads.items():
        error = np.abs(grad - expected[name]).max()
        assert error <= 1e-4 * max(np.abs(expected[name]).max(), 1e-3), name


@needs_kernels
def test_products_in_bfloat16_are_for_cpus():
    with pytest.raises(backend.UserError, match=r"ops\.bf16_products is true, which is for CPUs"):
        backend.choose("native", bf16_products=True)
