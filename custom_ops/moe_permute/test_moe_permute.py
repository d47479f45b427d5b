"""The compiled moves to the experts and back against their definition; rows carry their own address."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.moe import moe_permute, moe_unpermute, sort_by_expert
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
EXPERTS = 6
CHOICES = {
    "random": np.random.default_rng(0).permuted(np.tile(np.arange(EXPERTS), (50, 1)), axis=1)[:, :3],
    "one token": np.array([[4, 1]]),
    "all to one expert": np.full([7, 1], 3),
    "all to one expert, twice": np.full([7, 2], 5),
    "only the outer experts": np.array([[0, 5]] * 4 + [[5, 0]] * 3),
    "no token": np.zeros([0, 2], np.int64),
    "many": np.random.default_rng(1).integers(0, EXPERTS, [9000, 5]),
}
choices = pytest.mark.parametrize("name", CHOICES)
alignments = pytest.mark.parametrize("alignment", [1, 4])


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert all(backend.is_native(op) for op in ("sort_by_expert", "moe_permute", "moe_unpermute"))
        yield


def sorted_slots(name: str, alignment: int = 1):
    return sort_by_expert(paddle.to_tensor(CHOICES[name]), EXPERTS, alignment)


def addresses(tokens: int, hidden: int = 5) -> np.ndarray:
    """[tokens, hidden]: every number says where it stands."""
    return (np.arange(tokens)[:, None] * 100 + np.arange(hidden)).astype(np.float64)


@alignments
@choices
def test_the_sort_equals_its_definition(name, alignment):
    found = sorted_slots(name, alignment)
    with backend.using("reference"):
        expected = sorted_slots(name, alignment)
    for field in ("token_ids", "slot_ids", "row_ids", "tokens_per_expert"):
        np.testing.assert_array_equal(getattr(found, field).numpy(), getattr(expected, field).numpy(), field)
        assert getattr(found, field).stop_gradient


@choices
def test_groups_begin_at_multiples_of_the_alignment(name):
    permutation, flat = sorted_slots(name, 4), CHOICES[name].ravel()
    slot_ids, row = permutation.slot_ids.numpy(), 0
    for expert in range(EXPERTS):
        slots = np.flatnonzero(flat == expert)
        np.testing.assert_array_equal(slot_ids[row : row + len(slots)], slots)
        end = row + -(-len(slots) // 4) * 4
        assert (slot_ids[row + len(slots) : end] == -1).all()
        row = end
    assert (slot_ids[row:] == -1).all()


@alignments
@choices
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_permute_brings_every_token_to_its_rows(name, alignment, dtype):
    permutation = sorted_slots(name, alignment)
    states = paddle.to_tensor(addresses(len(CHOICES[name])) % 251).astype(dtype)  # exact in bfloat16
    rows = moe_permute(states, permutation)
    assert rows.dtype == states.dtype
    expected = np.zeros(rows.shape)
    slots = np.arange(CHOICES[name].size)
    expected[permutation.row_ids.numpy().ravel()] = states.astype("float64").numpy()[slots // CHOICES[name].shape[1]]
    np.testing.assert_array_equal(rows.astype("float64").numpy(), expected)


@alignments
@choices
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_unpermute_and_gradients_equal_the_definition(name, alignment, weighted, dtype):
    tokens, top_k = CHOICES[name].shape
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=[tokens * top_k + EXPERTS * (alignment - 1), 5]), rng.normal(size=[tokens, top_k])
    cotangent = rng.normal(size=[tokens, 5])
    results = []
    for mode in ("native", "reference"):
        # Paddle has few bfloat16 kernels on the CPU.
        dtype_here = "float32" if (mode, dtype) == ("reference", "bfloat16") else dtype
        with backend.using(mode):
            permutation = sorted_slots(name, alignment)
            rows = paddle.to_tensor(numbers[0]).astype(dtype).astype(dtype_here).detach()
            weights = paddle.to_tensor(numbers[1]).astype("float64" if dtype == "float64" else "float32").detach()
            rows.stop_gradient = weights.stop_gradient = False
            out = moe_unpermute(rows, permutation, weights if weighted else None)
            given = [rows, weights] if weighted else [rows]
            grads = paddle.grad([out], given, [paddle.to_tensor(cotangent).astype(dtype).astype(dtype_here)])
            results.append([one.astype("float64").numpy() for one in (out, *grads)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, **tolerance(dtype))


@alignments
@choices
def test_the_gradient_of_permute_equals_the_definition(name, alignment):
    tokens, top_k = CHOICES[name].shape
    cotangent = np.random.default_rng(2).normal(size=[tokens * top_k + EXPERTS * (alignment - 1), 5])
    results = []
    for mode in ("native", "reference"):
        with backend.using(mode):
            states = paddle.to_tensor(addresses(tokens), stop_gradient=False)
            rows = moe_permute(states, sorted_slots(name, alignment))
            results.append(paddle.grad([rows], [states], [paddle.to_tensor(cotangent)])[0].numpy())
    np.testing.assert_allclose(*results, **tolerance("float64"))


def test_gradients_of_the_weighted_sum_equal_central_differences():
    permutation = sorted_slots("only the outer experts", 4)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=[len(permutation.token_ids), 3]), rng.normal(size=[7, 2])]
    cotangent, row_ids = rng.normal(size=[7, 3]), permutation.row_ids.numpy()
    given = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    out = moe_unpermute(given[0], permutation, given[1])
    grads = paddle.grad([out], given, [paddle.to_tensor(cotangent)])

    def objective(rows, weights):
        return float(((rows[row_ids] * weights[..., None]).sum(1) * cotangent).sum())

    expected = (
        numeric_gradient(lambda value: objective(value, arrays[1]), arrays[0]),
        numeric_gradient(lambda value: objective(arrays[0], value), arrays[1]),
    )
    for grad, numbers in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad.numpy(), numbers, rtol=1e-5, atol=1e-8)


def test_rows_pass_from_rank_to_rank_and_back():
    """Two ranks of three experts: each sends its rows in rank order, sorts what it got anew, and sends it back."""
    ranks, local = 2, EXPERTS // 2
    states = [addresses(tokens) + 1e5 * rank for rank, tokens in enumerate((50, 7))]
    sent = [sorted_slots(name) for name in ("random", "only the outer experts")]
    rows = [moe_permute(paddle.to_tensor(one), where).numpy() for one, where in zip(states, sent, strict=True)]
    counts = [where.tokens_per_rank(ranks).numpy() for where in sent]
    pieces = [np.split(one, count.sum(1).cumsum()[:-1]) for one, count in zip(rows, counts, strict=True)]
    returned = []
    for rank in range(ranks):
        received = np.concatenate([piece[rank] for piece in pieces])
        ids = np.concatenate([np.repeat(np.arange(local), count[rank]) for count in counts])
        again = sort_by_expert(paddle.to_tensor(ids[:, None]), local)
        grouped = moe_permute(paddle.to_tensor(received), again)
        np.testing.assert_array_equal(again.tokens_per_expert.numpy(), sum(count[rank] for count in counts))
        experts = paddle.to_tensor(np.repeat(np.arange(local), again.tokens_per_expert.numpy()) + rank * local)
        worked = grouped * (experts + 1).astype("float64").unsqueeze(-1)  # expert e multiplies by e + 1
        back = moe_unpermute(worked, again).numpy()
        returned.append(np.split(back, np.cumsum([count[rank].sum() for count in counts])[:-1]))
    for rank, name in enumerate(("random", "only the outer experts")):
        home = np.concatenate([returned[other][rank] for other in range(ranks)])
        found = moe_unpermute(paddle.to_tensor(home), sent[rank]).numpy()
        np.testing.assert_array_equal(found, states[rank] * (CHOICES[name] + 1).sum(1, keepdims=True))


def test_input_that_is_not_contiguous_is_read_in_its_order():
    permutation, states = sorted_slots("all to one expert"), paddle.to_tensor(addresses(5, 7))
    np.testing.assert_array_equal(
        moe_permute(states.t(), permutation).numpy(), states.numpy().T[permutation.token_ids.numpy()]
    )


@pytest.mark.parametrize("hidden", [0, 1, 16, 1024])
def test_rows_of_any_width_are_moved(hidden):
    permutation = sorted_slots("many")  # with 1024, past the cache
    states = paddle.to_tensor(np.random.default_rng(0).normal(size=[9000, hidden]).astype("float32"))
    rows = moe_permute(states, permutation)
    np.testing.assert_array_equal(rows.numpy(), states.numpy()[permutation.token_ids.numpy()])
    np.testing.assert_allclose(moe_unpermute(rows, permutation).numpy(), 5 * states.numpy(), **tolerance("float32"))


@pytest.mark.parametrize(
    ("operator", "shapes", "message"),
    [
        ("moe_permute", ([3, 4], [6], [2, 3]), r"row_ids has shape \[2, 3\], expected \[3, -1\]"),
        ("moe_unpermute", ([6, 4], [5], [2, 3]), r"token_ids has shape \[5\], expected \[6\]"),
        ("moe_permute", ([3, 4], [6], [3, 2]), r"row_ids has an id outside of \[0, 6\)"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(operator, shapes, message):
    inputs = [paddle.ones(shapes[0]), paddle.zeros(shapes[1], "int64"), paddle.full(shapes[2], 6, "int64")]
    with pytest.raises(OSError, match=message):
        backend.call(operator, inputs)


@pytest.mark.parametrize("expert", [-1, EXPERTS])
def test_an_expert_that_does_not_exist_is_told_in_one_sentence(expert):
    with pytest.raises(OSError, match=r"topk_ids has an id outside of \[0, 6\)"):
        sort_by_expert(paddle.to_tensor([[0, expert]]), EXPERTS)


def test_ids_of_another_dtype_are_told_in_one_sentence():
    with pytest.raises(OSError, match="topk_ids has dtype int32, expected int64"):
        backend.call("sort_by_expert", [paddle.zeros([2, 2], "int32")], EXPERTS, 1)


@pytest.mark.parametrize("seed", range(20))
def test_any_shape_comes_back_as_it_went(seed):
    rng = np.random.default_rng(seed)
    tokens, experts, top_k, hidden, alignment = rng.integers([0, 1, 1, 1, 1], [300, 40, 7, 70, 9]).tolist()
    ids = paddle.to_tensor(rng.integers(0, experts, [tokens, top_k]))
    permutation = sort_by_expert(ids, experts, alignment)
    states = paddle.to_tensor(rng.integers(0, 1000, [tokens, hidden]).astype("float32"))
    weights = paddle.to_tensor(rng.integers(0, 5, [tokens, top_k]).astype("float32"))
    found = moe_unpermute(moe_permute(states, permutation), permutation, weights)
    np.testing.assert_array_equal(found.numpy(), states.numpy() * weights.numpy().sum(1, keepdims=True))


SCRIPT = """
import hashlib, numpy as np, paddle
from ernie5.ops.moe import moe_permute, moe_unpermute, sort_by_expert
rng = np.random.default_rng(0)
ids = paddle.to_tensor(rng.integers(0, 9, [9000, 6]))
permutation = sort_by_expert(ids, 9, 2)
rows = moe_permute(paddle.to_tensor(rng.normal(size=[9000, 16]).astype("float32")), permutation)
out = moe_unpermute(rows, permutation, paddle.to_tensor(rng.normal(size=[9000, 6]).astype("float32")))
parts = [permutation.slot_ids, permutation.row_ids, permutation.tokens_per_expert, rows, out]
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits():
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop()) == 65


# Paddle's own, of a traced program's backward pass
@pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
def test_it_works_in_a_traced_and_in_a_saved_program(tmp_path):
    class Layer(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.scale = self.create_parameter([5])

        def forward(self, states, ids, weights):
            permutation = sort_by_expert(ids, EXPERTS)
            return moe_unpermute(moe_permute(states, permutation) * self.scale, permutation, weights)

    layer = Layer()
    ids = CHOICES["random"]
    arrays = addresses(50).astype("float32"), ids, np.random.default_rng(0).normal(size=ids.shape).astype("float32")
    given = [paddle.to_tensor(array) for array in arrays]
    expected = layer(*given).numpy()
    spec = [
        paddle.static.InputSpec([None, width], dtype, name)
        for width, dtype, name in ((5, "float32", "states"), (3, "int64", "ids"), (3, "float32", "weights"))
    ]
    paddle.jit.save(layer, str(tmp_path / "moves"), input_spec=spec)
    for run in (paddle.jit.to_static(layer, full_graph=True), paddle.jit.load(str(tmp_path / "moves"))):
        np.testing.assert_array_equal(run(*given).numpy(), expected)
