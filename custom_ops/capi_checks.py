"""Checks of the C interface: every kernel against NumPy in float64, on a GPU or emulated. CASES names them all.

Inputs are rounded to their dtype first, so that what differs is the kernel's arithmetic. Tolerances bound the norm of
the error over the norm of the result, and, eight times as wide, the largest error over the largest value.
"""

from collections.abc import Callable

import numpy as np

from custom_ops.capi_inputs import (
    IGNORED,
    PRODUCTS,
    TOLERANCES,
    Inputs,
    Sorted,
    close,
    code_of,
    mask_columns,
    routing,
    same,
)
from custom_ops.capi_memory import DTYPES, Device, rounded


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def check_rms_norm(device: Device, rows: int, hidden: int, dtype: str, add: bool) -> None:
    inputs, code, epsilon = Inputs(device, dtype, rows + hidden), code_of(dtype), 1e-5
    (x, x_), (residual, residual_) = inputs.normal(rows, hidden), inputs.normal(rows, hidden)
    (weight, weight_), (grad, grad_) = inputs.normal(hidden), inputs.normal(rows, hidden)
    total_, y_, inverse_ = (
        device.empty(*shape, dtype=kind)
        for shape, kind in (((rows, hidden), dtype), ((rows, hidden), dtype), ((rows,), "float32"))
    )
    device.run(
        "e5_rms_norm_forward",
        code,
        x_,
        residual_ if add else None,
        weight_,
        rows,
        hidden,
        epsilon,
        total_ if add else None,
        y_,
        inverse_,
    )
    s = rounded(x + residual, dtype) if add else x
    if add:
        same(total_.numpy(), s, "sum")
    inverse = 1 / np.sqrt((s**2).mean(-1) + epsilon)
    close(inverse_.numpy(), inverse, TOLERANCES["float32"], "inverse")
    normalized = s * inverse[:, None]
    close(y_.numpy(), normalized * weight, TOLERANCES[dtype], "y")

    more, more_ = inputs.normal(rows, hidden)
    grad_s, grad_weight = device.empty(rows, hidden, dtype=dtype), device.empty(hidden, dtype=dtype)
    workspace = device.empty(device.size("e5_rms_norm_workspace", rows, hidden) // 4)
    device.run(
        "e5_rms_norm_backward",
        code,
        total_ if add else x_,
        weight_,
        inverse_,
        grad_,
        more_ if add else None,
        rows,
        hidden,
        grad_s,
        grad_weight,
        workspace,
    )
    g = grad * weight
    expected = inverse[:, None] * (g - normalized * (g * normalized).mean(-1, keepdims=True)) + (more if add else 0)
    close(grad_s.numpy(), expected, TOLERANCES[dtype], "gradient of s")
    close(grad_weight.numpy(), (grad * normalized).sum(0), max(TOLERANCES[dtype], 1e-5), "gradient of the weight")


def check_swiglu(device: Device, count: int, ffn: int, dtype: str, weighted: bool) -> None:
    inputs, code = Inputs(device, dtype, count + ffn), code_of(dtype)
    (rows, rows_), (grad, grad_) = inputs.normal(count, 2 * ffn, scale=2), inputs.normal(count, ffn)
    weights, weights_ = inputs.normal(count, dtype="float32")
    if not weighted:
        weights, weights_ = np.ones(count), None
    expected, expected_rows, expected_weights = _swiglu(rows, weights, grad)
    halves = [device.array(one, dtype) for one in np.split(rows, 2, -1)]
    for packed in (True, False):
        gate_up = (rows_, rows_.at(ffn)) if packed else halves
        y, grad_rows = device.empty(count, ffn, dtype=dtype), device.empty(count, 2 * ffn, dtype=dtype)
        grad_halves, grad_weights = [device.empty(count, ffn, dtype=dtype) for _ in range(2)], device.empty(count)
        grads = (grad_rows, grad_rows.at(ffn)) if packed else grad_halves
        stride = 2 * ffn if packed else ffn
        device.run("e5_swiglu_forward", code, *gate_up, weights_, count, ffn, stride, y)
        last = grad_weights if weighted else None
        device.run("e5_swiglu_backward", code, *gate_up, weights_, grad_, count, ffn, stride, *grads, last)
        close(y.numpy(), expected, TOLERANCES[dtype], "y")
        found = grad_rows.numpy() if packed else np.concatenate([one.numpy() for one in grad_halves], -1)
        close(found, expected_rows, TOLERANCES[dtype], "gradient of the rows")
        if weighted:
            close(grad_weights.numpy(), expected_weights, 1e-5, "gradient of the weights")


def _swiglu(rows, weights, grad):
    """y and the gradients of rows [count, 2 * ffn] and weights [count]."""
    gate, up = np.split(rows, 2, -1)
    share = sigmoid(gate)
    grad_y = grad * weights[:, None]
    grad_gate = grad_y * up * share * (1 + gate * (1 - share))
    y = gate * share * up
    return y * weights[:, None], np.concatenate([grad_gate, grad_y * gate * share], -1), (grad * y).sum(-1)


def check_uni_rope(device: Device, tokens: int, heads: int, pairs: int, dtype: str) -> None:
    inputs, code = Inputs(device, dtype, tokens + heads + pairs), code_of(dtype)
    positions, positions_ = inputs.of(inputs.random.integers(0, 5000, [tokens, 3]).astype(float), "float32")
    axes = np.arange(pairs) % 3
    frequency, frequency_ = inputs.of(10000.0 ** (-np.arange(pairs) / pairs), "float32")
    cos_, sin_ = device.empty(tokens, pairs), device.empty(tokens, pairs)
    device.run("e5_uni_rope_angles", positions_, device.array(axes, "int64"), frequency_, tokens, pairs, cos_, sin_)
    angles = (positions[:, axes].astype(np.float32) * frequency.astype(np.float32)).astype(float)
    close(cos_.numpy(), np.cos(angles), 1e-6, "cos")
    close(sin_.numpy(), np.sin(angles), 1e-6, "sin")

    states, states_ = inputs.normal(tokens, heads, 2 * pairs)
    first, second = np.split(states, 2, -1)
    for backward, rows in ((0, tokens), (1, tokens), (0, 1)):  # the last: one row of angles serves all
        turn = np.resize(angles[:rows], angles.shape)[:, None]
        cos, sin = np.cos(turn), np.sin(turn) * (-1 if backward else 1)
        out = device.empty(tokens, heads, 2 * pairs, dtype=dtype)
        device.run("e5_uni_rope", code, states_, cos_, sin_, tokens, rows, heads, pairs, backward, out)
        expected = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
        close(out.numpy(), expected, TOLERANCES[dtype], "turned back" if backward else "turned")


def check_router(device: Device, tokens: int, experts: int, top_k: int, score: str, ties: bool, removed: int) -> None:
    """With ties, logits take few values, so that most choices are between equals; `removed` experts are masked."""
    inputs, scaling = Inputs(device, "float32", tokens + experts), 2.5
    values = (
        inputs.random.integers(0, 3, [tokens, experts]) * 0.5 if ties else inputs.random.normal(0, 2, [tokens, experts])
    )
    logits, logits_ = inputs.of(values)
    bias, bias_ = inputs.of(np.zeros(experts) if ties else inputs.random.normal(0, 0.1, experts))
    mask = np.zeros(experts)
    mask[inputs.random.permutation(experts)[:removed]] = -np.inf
    mask_, softmax = device.array(mask, "float32"), int(score == "softmax")
    ids_, weights_ = device.empty(tokens, top_k, dtype="int64"), device.empty(tokens, top_k)
    totals_, counts_ = device.empty(tokens), device.empty(experts, dtype="int64")
    sizes, found = (tokens, experts, top_k, softmax, scaling), (ids_, weights_, totals_, counts_)
    device.run("e5_router_forward", logits_, bias_, mask_, *sizes, *found)

    masked = logits + mask
    scores = sigmoid(masked)
    if softmax and tokens:
        scores = np.exp(masked - masked.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
    choice = scores + bias + mask
    ids = ids_.numpy()
    if ties:
        same(ids, np.argsort(-choice, axis=-1, kind="stable")[:, :top_k], "ids")
    else:  # float32 scores that all but tie may change places
        assert all(len(set(row)) == top_k for row in ids.tolist()), "an expert was chosen twice"
        best = -np.sort(-choice, axis=-1)[:, :top_k]
        close(np.take_along_axis(choice, ids, -1), best, 1e-6, "what was chosen")
    same(counts_.numpy(), np.bincount(ids.ravel(), minlength=experts), "counts")
    chosen = np.take_along_axis(scores, ids, -1)
    total = chosen.sum(-1, keepdims=True)
    close(weights_.numpy(), chosen / total * scaling, 1e-5, "weights")
    close(totals_.numpy(), total[:, 0], 1e-5, "sums of the chosen scores")

    grad, grad_ = inputs.normal(tokens, top_k)
    grad_logits_ = device.empty(tokens, experts)
    device.run(
        "e5_router_backward", logits_, mask_, ids_, grad_, tokens, experts, top_k, softmax, scaling, grad_logits_
    )
    grad_scores = np.zeros([tokens, experts])
    shared = (grad * chosen).sum(-1, keepdims=True) / total
    np.put_along_axis(grad_scores, ids, (grad - shared) / total * scaling, -1)
    mean = (grad_scores * scores).sum(-1, keepdims=True)
    expected = scores * (grad_scores - mean if softmax else grad_scores * (1 - scores))
    # The terms cancel: the error is measured by their size.
    terms = np.zeros([tokens, experts])
    np.put_along_axis(terms, ids, (np.abs(grad) + np.abs(shared)) * chosen / total * scaling, -1)
    error = np.abs(grad_logits_.numpy() - expected)
    assert (error <= 1e-5 * (terms + scores * terms.sum(-1, keepdims=True)) + 1e-12).all(), "gradient of the logits"


def check_sort(device: Device, tokens: int, experts: int, top_k: int, kind: str, alignment: int) -> None:
    ids = routing(np.random.default_rng(tokens), tokens, experts, top_k, kind)
    found = Sorted(device, ids, experts, alignment)
    counts = np.bincount(ids.ravel(), minlength=experts)
    offsets = np.concatenate([[0], np.cumsum(-(-counts // alignment) * alignment)])
    slots = np.full(found.num_rows, -1)
    order, before = np.argsort(ids.ravel(), kind="stable"), np.concatenate([[0], np.cumsum(counts)])
    for expert in range(experts):
        slots[offsets[expert] : offsets[expert] + counts[expert]] = order[before[expert] : before[expert + 1]]
    same(found.counts_.numpy(), counts, "counts")
    same(found.offsets_.numpy(), offsets, "offsets")
    same(found.slot_ids_.numpy(), slots, "slot of each row")
    same(found.token_ids_.numpy(), np.where(slots < 0, -1, slots // top_k), "token of each row")
    same(found.slot_ids_.numpy()[found.row_ids.ravel()], np.arange(ids.size), "row of each slot")


def check_moves(device: Device, tokens: int, experts: int, top_k: int, hidden: int, kind: str, dtype: str) -> None:
    inputs, code = Inputs(device, dtype, tokens + hidden), code_of(dtype)
    ids = routing(inputs.random, tokens, experts, top_k, kind)
    place = Sorted(device, ids, experts)
    (x, x_), (rows, rows_) = inputs.normal(tokens, hidden), inputs.normal(ids.size, hidden)
    weights, weights_ = inputs.normal(tokens, top_k, dtype="float32")
    permuted = device.empty(ids.size, hidden, dtype=dtype)
    device.run("e5_moe_permute", code, x_, place.row_ids_, tokens, top_k, hidden, permuted)
    expected = np.zeros([ids.size, hidden])
    expected[place.row_ids] = x[:, None]
    same(permuted.numpy(), expected, "permuted")

    for given, given_ in ((weights, weights_), (np.ones_like(weights), None)):
        out = device.empty(tokens, hidden, dtype=dtype)
        device.run("e5_moe_combine", code, rows_, place.row_ids_, given_, tokens, top_k, hidden, out)
        close(out.numpy(), (rows[place.row_ids] * given[..., None]).sum(1), TOLERANCES[dtype], "combined")
    grad_rows, grad_weights = device.empty(ids.size, hidden, dtype=dtype), device.empty(tokens, top_k)
    device.run(
        "e5_moe_combine_backward",
        code,
        x_,
        rows_,
        place.row_ids_,
        weights_,
        tokens,
        top_k,
        hidden,
        grad_rows,
        grad_weights,
    )
    expected[place.row_ids] = x[:, None] * weights[..., None]
    close(grad_rows.numpy(), expected, TOLERANCES[dtype], "gradient of the rows")
    close(grad_weights.numpy(), (rows[place.row_ids] * x[:, None]).sum(-1), 1e-5, "gradient of the weights")


def check_cross_entropy(device: Device, rows: int, vocab: int, chunk: int, dtype: str) -> None:
    inputs, code = Inputs(device, dtype, rows + vocab), code_of(dtype)
    logits = rounded(inputs.random.normal(0, 3, [rows, vocab]), dtype)
    logits[:1, : chunk // 2] = -np.inf  # a forbidden half of a chunk
    labels = inputs.random.integers(chunk // 2 if rows == 1 else 0, vocab, rows)
    labels[:1] = vocab - 1
    labels[1::3] = IGNORED
    grad, grad_ = inputs.normal(rows, dtype="float32")
    labels_, starts = device.array(labels, "int64"), range(0, vocab, chunk)
    state = [device.empty(rows) for _ in range(3)]
    for start in starts:
        part = logits[:, start : start + chunk]
        device.run(
            "e5_cross_entropy_chunk",
            code,
            device.array(part, dtype),
            labels_,
            rows,
            start,
            part.shape[1],
            int(start == 0),
            *state,
        )
    loss_, lse_ = device.empty(rows), device.empty(rows)
    device.run("e5_cross_entropy_finish", labels_, IGNORED, rows, *state, loss_, lse_)
    highest = logits.max(-1, keepdims=True, initial=-1e30)
    lse = (np.log(np.exp(logits - highest).sum(-1, keepdims=True)) + highest)[:, 0]
    kept = labels != IGNORED
    chosen = np.take_along_axis(logits, np.where(kept, labels, 0)[:, None], -1)[:, 0]
    close(lse_.numpy(), lse, 1e-6, "log-sum-exp")
    close(loss_.numpy(), np.where(kept, lse - np.where(kept, chosen, 0), 0), 2e-6, "loss")

    shares = np.exp(logits - lse[:, None])
    shares[kept, labels[kept]] -= 1
    expected = np.where(kept[:, None], shares * grad[:, None], 0)
    found = []
    for start in starts:
        part_ = device.array(logits[:, start : start + chunk], dtype)
        device.run("e5_cross_entropy_backward", code, part_, labels_, lse_, grad_, rows, start, part_.shape[1], IGNORED)
        found.append(part_.numpy())
    close(np.concatenate(found, -1), expected, max(TOLERANCES[dtype], 2e-5), "gradient of the logits")


def check_bitwise_cross_entropy(device: Device, rows: int, bits: int, stride: int, dtype: str) -> None:
    inputs, code = Inputs(device, dtype, rows + bits), code_of(dtype)
    logits, logits_ = inputs.normal(rows, stride, scale=4)
    targets, targets_ = inputs.of(inputs.random.integers(0, 2, [rows, bits]), "float32")
    weights, weights_ = inputs.normal(rows, dtype="float32")
    x = logits[:, :bits]
    expected = np.zeros([rows, stride])
    expected[:, :bits] = (sigmoid(x) - targets) / bits * weights[:, None]
    for grad_ in (device.empty(rows, stride, dtype=dtype), None):
        loss_ = device.empty(rows)
        device.run("e5_bitwise_cross_entropy", code, logits_, targets_, weights_, rows, bits, stride, loss_, grad_)
        close(loss_.numpy(), (np.logaddexp(0, x) - x * targets).mean(-1) * weights, 5e-6, "losses")
        if grad_:
            close(grad_.numpy(), expected, max(TOLERANCES[dtype], 1e-5), "gradient of the logits")


def check_scale(device: Device, count: int, dtype: str) -> None:
    inputs = Inputs(device, dtype, count)
    (values, values_), (factor, factor_) = inputs.normal(count), inputs.normal(1, dtype="float32")
    out = device.empty(count, dtype=dtype)
    device.run("e5_scale", code_of(dtype), values_, factor_, count, out)
    close(out.numpy(), values * factor, TOLERANCES[dtype], "scaled")


def check_attention(
    device: Device, batch: int, queries: int, keys: int, heads: int, kv_heads: int, head_dim: int, kind: str
) -> None:
    inputs, scale = Inputs(device, "bfloat16", queries + keys + heads), head_dim**-0.5
    (query, query_), (grad, grad_) = (inputs.normal(batch, queries, heads, head_dim) for _ in range(2))
    (key, key_), (value, value_) = (inputs.normal(batch, keys, kv_heads, head_dim) for _ in range(2))
    columns, causal, visible = mask_columns(inputs.random, batch, queries, keys, kind)
    mask = (device.array(columns, "int32"), columns.shape[0], columns.shape[2], int(causal))
    bounds = device.empty(device.size("e5_attention_bounds_size", batch, keys) // 4, dtype="int32")
    device.run("e5_attention_bounds", *mask, batch, queries, keys, bounds)
    out_, sums_ = device.empty(*query.shape, dtype="bfloat16"), device.empty(batch, heads, queries)
    sizes = (batch, queries, keys, heads, kv_heads, head_dim, scale)
    device.run("e5_attention_forward", query_, key_, value_, *mask, bounds, *sizes, out_, sums_)

    spread = [np.repeat(one, heads // kv_heads, 2).transpose(0, 2, 1, 3) for one in (key, value)]
    scores = np.einsum("bqhd,bhkd->bhqk", query, spread[0]) * scale
    scores = np.where(visible[:, None], scores, -np.inf)
    highest = np.maximum(scores.max(-1, keepdims=True, initial=-1e30), -1e30)
    weights = np.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    seen = np.broadcast_to(visible.any(-1)[:, None], total.shape[:3])
    shares = weights / np.where(total > 0, total, 1)
    out = np.einsum("bhqk,bhkd->bqhd", shares, spread[1])
    close(out_.numpy(), out, TOLERANCES["bfloat16"], "out")
    found = sums_.numpy()
    close(found[seen], (np.log(np.where(total > 0, total, 1)) + highest)[..., 0][seen], 1e-5, "log of the sums")
    assert (found[~seen] == -np.inf).all(), "a query that sees nothing"

    products = device.empty(batch, heads, queries)
    grads = [device.empty(*one.shape, dtype="bfloat16") for one in (query, key, value)]
    device.run(
        "e5_attention_backward",
        query_,
        key_,
        value_,
        out_,
        grad_,
        sums_,
        *mask,
        bounds,
        *sizes,
        products,
        *grads,
    )
    grad = grad.transpose(0, 2, 1, 3)
    grad_shares = grad @ spread[1].swapaxes(-1, -2)
    grad_scores = shares * (grad_shares - (shares * grad_shares).sum(-1, keepdims=True)) * scale
    grad_query = np.einsum("bhqk,bhkd->bqhd", grad_scores, spread[0])
    grad_key = np.einsum("bhqk,bqhd->bkhd", grad_scores, query)
    grad_value = np.einsum("bhqk,bhqd->bkhd", shares, grad)
    grad_key, grad_value = (
        one.reshape(batch, keys, kv_heads, heads // kv_heads, head_dim).sum(3) for one in (grad_key, grad_value)
    )
    for name, one, other in zip(("query", "key", "value"), grads, (grad_query, grad_key, grad_value), strict=True):
        close(one.numpy(), other, PRODUCTS, f"gradient of the {name}", least=0.1)


def check_grouped_product(
    device: Device, kind: int, counts: tuple[int, ...], height: int, depth: int, columns: int
) -> None:
    inputs, experts, total = Inputs(device, "bfloat16", columns), len(counts), sum(counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    shapes = {
        0: ((total, depth), (experts, depth, columns), (total, columns)),
        1: ((total, depth), (experts, columns, depth), (total, columns)),
        2: ((total, height), (total, columns), (experts, height, columns)),
    }[kind]
    (a, a_), (b, b_) = inputs.normal(*shapes[0]), inputs.normal(*shapes[1])
    c_ = device.empty(*shapes[2], dtype="bfloat16")
    device.run(
        "e5_grouped_product",
        kind,
        a_,
        b_,
        device.array(np.array(counts), "int64"),
        device.array(offsets, "int64"),
        experts,
        height,
        depth,
        columns,
        c_,
    )
    runs = [slice(offsets[i], offsets[i + 1]) for i in range(experts)]
    if kind == 2:
        expected = np.stack([a[run].T @ b[run] for run in runs])
    else:
        expected = np.concatenate([a[run] @ (b[i] if kind == 0 else b[i].T) for i, run in enumerate(runs)])
    close(c_.numpy(), expected, TOLERANCES["bfloat16"], "product")


def check_expert_ffn(device: Device, tokens: int, experts: int, top_k: int, hidden: int, ffn: int, kind: str) -> None:
    inputs = Inputs(device, "bfloat16", tokens + hidden)
    ids = routing(inputs.random, tokens, experts, top_k, kind)
    place, slots = Sorted(device, ids, experts), ids.size
    (rows, rows_), (grad, grad_) = inputs.normal(slots, hidden), inputs.normal(slots, hidden)
    weights, weights_ = inputs.normal(slots, dtype="float32")
    gate_up, gate_up_ = inputs.normal(experts, hidden, 2 * ffn, scale=hidden**-0.5)
    down, down_ = inputs.normal(experts, ffn, hidden, scale=ffn**-0.5)
    empty = lambda *shape: device.empty(*shape, dtype="bfloat16")  # noqa: E731
    inner_, activations_, out_ = empty(slots, 2 * ffn), empty(slots, ffn), empty(slots, hidden)
    head = (rows_, weights_, place.counts_, place.offsets_, gate_up_, down_)
    sizes = (slots, experts, hidden, ffn)
    device.run("e5_expert_ffn_forward", *head, *sizes, inner_, activations_, out_)
    grads = [empty(slots, hidden), device.empty(slots), empty(*gate_up.shape), empty(*down.shape)]
    spaces = (activations_, empty(slots, ffn), empty(slots, 2 * ffn))
    device.run("e5_expert_ffn_backward", *head, grad_, *sizes, inner_, *spaces, *grads)

    counts = np.bincount(ids.ravel(), minlength=experts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    expected = [np.zeros_like(rows), np.zeros_like(rows), np.zeros(slots), np.zeros_like(gate_up), np.zeros_like(down)]
    for expert in range(experts):
        run = slice(offsets[expert], offsets[expert + 1])
        inner, grad_y = rows[run] @ gate_up[expert], grad[run] @ down[expert].T
        y, grad_inner, grad_weights = _swiglu(inner, weights[run], grad_y)
        expected[0][run] = y @ down[expert]
        expected[1][run], expected[2][run] = grad_inner @ gate_up[expert].T, grad_weights
        expected[3][expert], expected[4][expert] = rows[run].T @ grad_inner, y.T @ grad[run]
    names = ("out", "gradient of the rows", "of their weights", "of gate and up", "of down")
    for name, one, other in zip(names, (out_, *grads), expected, strict=True):
        close(one.numpy(), other, PRODUCTS, name)


def _cases() -> list[tuple[str, Callable[[Device], None]]]:
    found = []

    def add(check, **arguments) -> None:
        name = "-".join(
            f"{key}{value}" if isinstance(value, (int, bool)) else str(value) for key, value in arguments.items()
        )
        found.append((f"{check.__name__[6:]}[{name}]", lambda device: check(device, **arguments)))

    for dtype in DTYPES:
        for rows, hidden in ((0, 8), (1, 8), (5, 100), (3, 1024), (70, 264), (2, 9000)):
            add(check_rms_norm, rows=rows, hidden=hidden, dtype=dtype, add=bool(rows % 2))
        for count, ffn in ((0, 8), (1, 8), (5, 7), (9, 2056)):
            add(check_swiglu, count=count, ffn=ffn, dtype=dtype, weighted=bool(count % 2))
        for tokens, heads, pairs in ((0, 2, 8), (1, 1, 3), (5, 3, 64)):
            add(check_uni_rope, tokens=tokens, heads=heads, pairs=pairs, dtype=dtype)
        for tokens, experts, top_k, hidden, kind in (
            (0, 4, 2, 16, "even"),
            (1, 8, 8, 24, "even"),
            (50, 384, 8, 100, "skewed"),
            (33, 6, 2, 1032, "one"),
        ):
            add(check_moves, tokens=tokens, experts=experts, top_k=top_k, hidden=hidden, kind=kind, dtype=dtype)
        for rows, vocab, chunk in ((0, 8, 8), (1, 37, 16), (7, 5000, 2048), (4, 4096, 4096)):
            add(check_cross_entropy, rows=rows, vocab=vocab, chunk=chunk, dtype=dtype)
        for rows, bits, stride in ((0, 8, 8), (1, 1, 1), (67, 19, 19), (67, 19, 32), (40, 32, 32)):
            add(check_bitwise_cross_entropy, rows=rows, bits=bits, stride=stride, dtype=dtype)
        for count in (0, 1, 37, 4096):
            add(check_scale, count=count, dtype=dtype)
    for score in ("softmax", "sigmoid"):
        for tokens, experts, top_k, ties, removed in (
            (0, 8, 2, False, 0),
            (1, 8, 8, False, 0),
            (77, 384, 8, False, 0),
            (40, 64, 4, True, 0),
            (9, 256, 8, True, 40),
            (5, 1000, 32, False, 500),
            (30, 100, 1, False, 3),
        ):
            add(check_router, tokens=tokens, experts=experts, top_k=top_k, score=score, ties=ties, removed=removed)
    for tokens, experts, top_k, kind in (
        (0, 4, 2, "even"),
        (1, 4, 2, "even"),
        (600, 384, 8, "even"),
        (1500, 7, 2, "skewed"),
        (1100, 3, 1, "one"),
        (20, 1024, 8, "even"),
    ):
        for alignment in (1, 16):
            add(check_sort, tokens=tokens, experts=experts, top_k=top_k, kind=kind, alignment=alignment)
    for batch, queries, keys, heads, kv_heads, head_dim, kind in (
        (1, 1, 1, 1, 1, 64, "causal"),
        (2, 1, 133, 4, 2, 128, "causal"),
        (1, 65, 65, 2, 1, 64, "full"),
        (1, 200, 200, 2, 2, 128, "causal"),
        (2, 190, 190, 4, 2, 64, "documents"),
        (1, 300, 300, 2, 1, 64, "blocks"),
        (2, 150, 190, 2, 1, 64, "shared"),
        (2, 190, 190, 2, 1, 64, "gaps"),
        (1, 100, 100, 2, 1, 64, "beyond"),
        (2, 130, 130, 2, 1, 128, "holes"),
        (1, 170, 170, 2, 1, 128, "blind"),
        (1, 70, 150, 2, 1, 64, "causal"),
        (0, 8, 8, 2, 1, 64, "full"),
    ):
        add(
            check_attention,
            batch=batch,
            queries=queries,
            keys=keys,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            kind=kind,
        )
    for kind in (0, 1, 2):
        add(check_grouped_product, kind=kind, counts=(3, 0, 140, 1), height=136, depth=200, columns=264)
        add(check_grouped_product, kind=kind, counts=(0, 0), height=8, depth=8, columns=8)
        add(check_grouped_product, kind=kind, counts=(1100,), height=8, depth=8, columns=520)
    for tokens, experts, top_k, hidden, ffn, kind in (
        (0, 4, 2, 16, 8, "even"),
        (1, 4, 2, 16, 8, "even"),
        (70, 5, 2, 72, 136, "skewed"),
        (70, 4, 2, 136, 40, "one"),
        (30, 384, 8, 24, 16, "even"),
    ):
        add(check_expert_ffn, tokens=tokens, experts=experts, top_k=top_k, hidden=hidden, ffn=ffn, kind=kind)
    return found


CASES = dict(_cases())


def run_all(device: Device) -> int:
    """Prints what fails; returns how many did."""
    failures = 0
    for name, check in CASES.items():
        try:
            check(device)
        except AssertionError as error:
            failures += 1
            print(f"FAILED {name}: {error}", flush=True)
    print(f"{len(CASES) - failures} of {len(CASES)} checks passed", flush=True)
    return failures
