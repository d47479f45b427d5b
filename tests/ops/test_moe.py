"""Permutation by expert with rows that carry their own address, and the ragged SwiGLU against a loop over tokens."""

import numpy as np
import paddle
import pytest

from ernie5.ops.moe import GATHERED_SLOTS, expert_ffn, moe_permute, moe_unpermute, sort_by_expert
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

EXPERTS = 6
CHOICES = {
    "random": np.random.default_rng(0).permuted(np.tile(np.arange(EXPERTS), (50, 1)), axis=1)[:, :3],
    "one token": np.array([[4, 1]]),
    "one choice": np.array([[2], [0], [2], [5]]),
    "all to one expert": np.full([7, 1], 3),
    "only the outer experts": np.array([[0, 5]] * 4 + [[5, 0]] * 3),
}
choices = pytest.mark.parametrize("name", CHOICES)


def addresses(topk_ids: np.ndarray) -> np.ndarray:
    """[tokens, 1], each token its own number."""
    return np.arange(len(topk_ids), dtype=np.float32)[:, None]


@choices
def test_permute_groups_rows_by_expert_in_token_order(name):
    topk_ids = CHOICES[name]
    permutation = sort_by_expert(paddle.to_tensor(topk_ids), EXPERTS)
    rows = moe_permute(paddle.to_tensor(addresses(topk_ids)), permutation).numpy()[:, 0]
    expected = [token for expert in range(EXPERTS) for token, chosen in enumerate(topk_ids) if expert in chosen]
    assert rows.tolist() == expected


@choices
def test_sort_counts_every_slot_of_every_expert(name):
    topk_ids = CHOICES[name]
    permutation = sort_by_expert(paddle.to_tensor(topk_ids), EXPERTS)
    assert permutation.tokens_per_expert.tolist() == [(topk_ids == expert).sum() for expert in range(EXPERTS)]


@choices
def test_slot_ids_and_row_ids_are_each_other_s_inverse(name):
    permutation = sort_by_expert(paddle.to_tensor(CHOICES[name]), EXPERTS)
    slots, rows = permutation.slot_ids.numpy(), permutation.row_ids.numpy().flatten()
    np.testing.assert_array_equal(slots[rows], np.arange(slots.size))
    np.testing.assert_array_equal(permutation.token_ids.numpy(), slots // CHOICES[name].shape[1])


@choices
def test_slot_ids_bring_each_slot_s_expert(name):
    flat = CHOICES[name].flatten()
    permutation = sort_by_expert(paddle.to_tensor(CHOICES[name]), EXPERTS)
    np.testing.assert_array_equal(flat[permutation.slot_ids.numpy()], np.sort(flat))


@choices
def test_unpermute_returns_to_each_token_its_own_rows(name):
    topk_ids = CHOICES[name]
    top_k = topk_ids.shape[1]
    permutation = sort_by_expert(paddle.to_tensor(topk_ids), EXPERTS)
    rows = moe_permute(paddle.to_tensor(addresses(topk_ids)), permutation)
    back = moe_unpermute(rows, permutation).numpy()
    np.testing.assert_array_equal(back, top_k * addresses(topk_ids))


@choices
def test_unpermute_sums_over_the_choices_of_a_token(name):
    topk_ids = CHOICES[name]
    permutation = sort_by_expert(paddle.to_tensor(topk_ids), EXPERTS)
    slot_values = 2.0 ** (np.arange(topk_ids.size) % 20)  # sums of these tell which slots are in them
    rows = slot_values[permutation.slot_ids.numpy()][:, None].astype(np.float32)
    expected = slot_values.reshape(topk_ids.shape).sum(1, keepdims=True)
    np.testing.assert_array_equal(moe_unpermute(paddle.to_tensor(rows), permutation).numpy(), expected)


@choices
def test_gradients_of_the_moves_are_the_moves_back(name):
    topk_ids = CHOICES[name]
    permutation = sort_by_expert(paddle.to_tensor(topk_ids), EXPERTS)
    states = paddle.to_tensor(np.random.normal(size=[len(topk_ids), 3]).astype(np.float32), stop_gradient=False)
    slot_grad = np.random.normal(size=[topk_ids.size, 3]).astype(np.float32)
    (moe_permute(states, permutation) * paddle.to_tensor(slot_grad)).sum().backward()
    expected = np.zeros([len(topk_ids), 3])
    np.add.at(expected, permutation.token_ids.numpy(), slot_grad)
    np.testing.assert_allclose(states.grad.numpy(), expected, **tolerance("float32"))

    rows = paddle.to_tensor(slot_grad, stop_gradient=False)
    token_grad = np.random.normal(size=[len(topk_ids), 3]).astype(np.float32)
    (moe_unpermute(rows, permutation) * paddle.to_tensor(token_grad)).sum().backward()
    np.testing.assert_array_equal(rows.grad.numpy(), token_grad[permutation.token_ids.numpy()])


def expert_loop(rows, row_weights, gate_up, down, counts) -> np.ndarray:
    """A row at a time, in float64."""
    output = np.zeros(rows.shape)
    for i, expert in enumerate(np.repeat(np.arange(len(counts)), counts)):
        gate, up = np.split(rows[i] @ gate_up[expert], 2)
        output[i] = row_weights[i] * ((gate / (1 + np.exp(-gate)) * up) @ down[expert])
    return output


def expert_inputs(counts, hidden=4, ffn=3):
    slots, experts = sum(counts), len(counts)
    shapes = [slots, hidden], [slots], [experts, hidden, 2 * ffn], [experts, ffn, hidden]
    return [np.random.normal(size=shape) for shape in shapes]


def run_experts(arrays, counts, stop_gradient=True):
    tensors = [paddle.to_tensor(array.astype(np.float32), stop_gradient=stop_gradient) for array in arrays]
    rows, weights, gate_up, down = tensors
    return expert_ffn(rows, weights, paddle.to_tensor(counts), gate_up, down), tensors


@pytest.mark.parametrize("counts", [[1, 0, 2], [9, 0, GATHERED_SLOTS, 1]], ids=["gathered", "one by one"])
def test_experts_without_gradients_equal_a_loop_over_rows(counts):
    arrays = expert_inputs(counts)
    with paddle.no_grad():
        output, _ = run_experts(arrays, counts)
    np.testing.assert_allclose(output.numpy(), expert_loop(*arrays, counts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [[3, 2, 4], [0, 5, 0, 1], [6, 0], [1], [0, 0, 9]], ids=str)
def test_experts_equal_a_loop_over_rows(counts):
    arrays = expert_inputs(counts)
    output, _ = run_experts(arrays, counts)
    rtol = 1e-4  # of a sum of products of sums
    np.testing.assert_allclose(output.numpy(), expert_loop(*arrays, counts), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("counts", [[2, 0, 3], [4]], ids=str)
def test_gradients_of_experts_equal_central_differences(counts):
    arrays = expert_inputs(counts)
    cotangent = np.random.normal(size=arrays[0].shape)
    output, tensors = run_experts(arrays, counts, stop_gradient=False)
    (output * paddle.to_tensor(cotangent.astype(np.float32))).sum().backward()
    for i, tensor in enumerate(tensors):

        def objective(value, i=i):
            return (expert_loop(*arrays[:i], value, *arrays[i + 1 :], counts) * cotangent).sum()

        expected = numeric_gradient(objective, arrays[i])
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
