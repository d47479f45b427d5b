"""Times the CUDA kernels through their C interface against two floors and torch's equivalents: a table in Markdown.

    python -m custom_ops.build_capi && python -m custom_ops.capi_bench [--only attention] [--output PATH]

Floors: bytes that must be moved over the measured rate of a device copy, and operations over the measured rate of a
dense bfloat16 product. Every round runs each job once, in turn, between CUDA events; the median counts. Needs torch and
a GPU, no Paddle. --smoke runs every job at small sizes; on a machine without a GPU with the emulated library.
"""

import argparse
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from custom_ops import build_capi

BF16, CODE = torch.bfloat16, 2  # and its code in the interface
Job = Callable[[], object]


@dataclass
class Case:
    """Jobs that compute the same thing; the first is ours."""

    name: str
    shape: str
    jobs: dict[str, Job]
    bytes: float = 0.0  # that must be read and written
    operations: float = 0.0


@dataclass
class Floors:
    copy: float  # bytes a second, read and written
    dense: float  # operations a second


class Bench:
    """The library, where tensors live, and how large they are."""

    def __init__(self, library: Path, smoke: bool):
        self.library, self.smoke = ctypes.CDLL(str(library)), smoke
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def size(self, full: int, small: int) -> int:
        return small if self.smoke else full

    def normal(self, *shape: int, dtype=BF16, grad: bool = False, scale: float = 1.0) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self.device).normal_(0, scale)
        return tensor.requires_grad_(grad)

    def empty(self, *shape: int, dtype=BF16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def workspace(self, function: str, *arguments: int) -> torch.Tensor:
        called = getattr(self.library, function)
        called.restype = ctypes.c_int64
        return self.empty(called(*map(ctypes.c_int64, arguments)), dtype=torch.uint8)

    def call(self, function: str, *arguments) -> Job:
        """A job that runs it, with its arguments converted once."""
        stream = torch.cuda.current_stream().cuda_stream if self.device == "cuda" else 0
        converted = [_as_c(argument) for argument in arguments] + [ctypes.c_void_p(stream)]
        kernel = getattr(self.library, function)

        def job(alive=arguments) -> None:
            code = kernel(*converted)
            if code:
                raise RuntimeError(f"{function}: CUDA error {code}")

        return job

    def compile(self, function: Callable) -> Callable:
        return function if self.smoke else torch.compile(function, dynamic=False)


def _as_c(argument):
    if argument is None or isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)


def gradients(outputs: torch.Tensor, inputs: list[torch.Tensor], grad: torch.Tensor) -> Job:
    """A job that runs the backward pass alone."""
    return lambda: torch.autograd.grad(outputs, inputs, grad, retain_graph=True)


def rms_norm_cases(bench: Bench) -> Iterator[Case]:
    rows = bench.size(32768, 8)
    for hidden in (bench.size(7168, 64), bench.size(1024, 32)):
        yield from _rms_norm(bench, rows, hidden)


def _rms_norm(bench: Bench, rows: int, hidden: int) -> Iterator[Case]:
    x, residual = bench.normal(rows, hidden, grad=True), bench.normal(rows, hidden)
    weight, grad = bench.normal(hidden, grad=True), bench.normal(rows, hidden)
    y, total, inverse = bench.empty(rows, hidden), bench.empty(rows, hidden), bench.empty(rows, dtype=torch.float32)
    grad_x, grad_weight = bench.empty(rows, hidden), bench.empty(hidden)
    shape, size = f"{rows} x {hidden}", rows * hidden * 2
    plain = bench.compile(lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, 1e-5))

    def added(x, residual, weight):
        total = x + residual
        return F.rms_norm(total, total.shape[-1:], weight, 1e-5), total

    compiled_added = bench.compile(added)
    with torch.no_grad():
        yield Case(
            "rms_norm",
            shape,
            {
                "ours": bench.call("e5_rms_norm_forward", CODE, x, None, weight, rows, hidden, 1e-5, None, y, inverse),
                "F.rms_norm": lambda: F.rms_norm(x, x.shape[-1:], weight, 1e-5),
                "compiled": lambda: plain(x, weight),
            },
            2 * size,
        )
        yield Case(
            "rms_norm of a sum",
            shape,
            {
                "ours": bench.call(
                    "e5_rms_norm_forward", CODE, x, residual, weight, rows, hidden, 1e-5, total, y, inverse
                ),
                "compiled": lambda: compiled_added(x, residual, weight),
            },
            4 * size,
        )
    bench.call("e5_rms_norm_forward", CODE, x, None, weight, rows, hidden, 1e-5, None, y, inverse)()
    space = bench.workspace("e5_rms_norm_workspace", rows, hidden)
    yield Case(
        "rms_norm backward",
        shape,
        {
            "ours": bench.call(
                "e5_rms_norm_backward",
                CODE,
                x,
                weight,
                inverse,
                grad,
                None,
                rows,
                hidden,
                grad_x,
                grad_weight,
                space,
            ),
            "F.rms_norm": gradients(F.rms_norm(x, x.shape[-1:], weight, 1e-5), [x, weight], grad),
            "compiled": gradients(plain(x, weight), [x, weight], grad),
        },
        3 * size,
    )


def swiglu_cases(bench: Bench) -> Iterator[Case]:
    rows, ffn = bench.size(65536, 8), bench.size(2048, 64)
    x, grad = bench.normal(rows, 2 * ffn, grad=True), bench.normal(rows, ffn)
    y, grad_x = bench.empty(rows, ffn), bench.empty(rows, 2 * ffn)

    def definition(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    compiled, shape, size = bench.compile(definition), f"{rows} x 2 x {ffn}", rows * ffn * 2
    with torch.no_grad():
        yield Case(
            "swiglu",
            shape,
            {
                "ours": bench.call("e5_swiglu_forward", CODE, *halves(x), None, rows, ffn, 2 * ffn, y),
                "compiled": lambda: compiled(x),
            },
            3 * size,
        )
    yield Case(
        "swiglu backward",
        shape,
        {
            "ours": bench.call(
                "e5_swiglu_backward", CODE, *halves(x), None, grad, rows, ffn, 2 * ffn, *halves(grad_x), None
            ),
            "compiled": gradients(compiled(x), [x], grad),
        },
        5 * size,
    )


def halves(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gate and up within one array."""
    return rows, rows[:, rows.shape[1] // 2 :]


def uni_rope_cases(bench: Bench) -> Iterator[Case]:
    tokens, heads, pairs = bench.size(16384, 4), bench.size(64, 2), bench.size(64, 16)
    states, out = bench.normal(tokens, heads, 2 * pairs), bench.empty(tokens, heads, 2 * pairs)
    cos, sin = bench.normal(tokens, pairs, dtype=torch.float32), bench.normal(tokens, pairs, dtype=torch.float32)

    def definition(states, cos, sin):
        first, second = states.float().chunk(2, -1)
        cos, sin = cos[:, None], sin[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(states.dtype)

    compiled = bench.compile(definition)
    yield Case(
        "uni_rope",
        f"{tokens} x {heads} x {2 * pairs}",
        {
            "ours": bench.call("e5_uni_rope", CODE, states, cos, sin, tokens, tokens, heads, pairs, 0, out),
            "compiled": lambda: compiled(states, cos, sin),
        },
        2 * states.numel() * 2 + 2 * cos.numel() * 4,
    )


def router_cases(bench: Bench) -> Iterator[Case]:
    tokens, top_k = bench.size(131072, 8), 8
    for experts in (256, 384):
        yield from _router(bench, tokens, experts, top_k)


def _router(bench: Bench, tokens: int, experts: int, top_k: int) -> Iterator[Case]:
    logits = bench.normal(tokens, experts, dtype=torch.float32, grad=True)
    bias = bench.normal(experts, dtype=torch.float32, scale=0.01)
    ids, weights = bench.empty(tokens, top_k, dtype=torch.int64), bench.empty(tokens, top_k, dtype=torch.float32)
    totals = bench.empty(tokens, dtype=torch.float32)
    counts, grad_logits = bench.empty(experts, dtype=torch.int64), bench.empty(tokens, experts, dtype=torch.float32)
    grad = bench.normal(tokens, top_k, dtype=torch.float32)

    def route(logits, bias):
        scores = logits.softmax(-1)
        ids = torch.topk((scores + bias).detach(), 8, -1).indices
        weights = scores.gather(-1, ids)
        return (
            weights / weights.sum(-1, keepdim=True),
            ids,
            torch.bincount(ids.flatten(), minlength=logits.shape[1]),
        )

    def weigh(logits, ids):
        weights = logits.softmax(-1).gather(-1, ids)
        return weights / weights.sum(-1, keepdim=True)

    compiled_route, compiled_weigh = bench.compile(route), bench.compile(weigh)
    shape, size = f"{tokens} x {experts}, top {top_k}", tokens * experts * 4
    found = (ids, weights, totals, counts)
    forward = bench.call("e5_router_forward", logits, bias, None, tokens, experts, top_k, 1, 1.0, *found)
    with torch.no_grad():
        yield Case(
            "router",
            shape,
            {
                "ours": forward,
                "compiled": lambda: compiled_route(logits, bias),
            },
            size + tokens * top_k * 12,
        )
    forward()
    yield Case(
        "router backward",
        shape,
        {
            "ours": bench.call(
                "e5_router_backward", logits, None, ids, grad, tokens, experts, top_k, 1, 1.0, grad_logits
            ),
            "compiled": gradients(compiled_weigh(logits, ids), [logits], grad),
        },
        2 * size + tokens * top_k * 12,
    )


class Routed:
    """Tokens that choose experts at random, sorted by expert."""

    def __init__(self, bench: Bench, tokens: int, experts: int, top_k: int):
        slots = tokens * top_k
        self.ids = torch.rand(tokens, experts, device=bench.device).topk(top_k, -1).indices
        self.row_ids, self.slot_ids, self.token_ids = (bench.empty(slots, dtype=torch.int64) for _ in range(3))
        self.counts, self.offsets = (bench.empty(experts + more, dtype=torch.int64) for more in (0, 1))
        self.sort = bench.call(
            "e5_sort_by_expert",
            self.ids,
            slots,
            top_k,
            experts,
            1,
            slots,
            self.row_ids,
            self.slot_ids,
            self.token_ids,
            self.counts,
            self.offsets,
            bench.workspace("e5_sort_workspace", slots, experts),
        )
        self.sort()


def moe_cases(bench: Bench) -> Iterator[Case]:
    for experts in (256, 384):
        yield from _moe(bench, bench.size(16384, 8), bench.size(7168, 64), experts, 8)


def _moe(bench: Bench, tokens: int, hidden: int, experts: int, top_k: int) -> Iterator[Case]:
    routed, slots = Routed(bench, tokens, experts, top_k), tokens * top_k
    x, rows, out = bench.normal(tokens, hidden), bench.empty(slots, hidden), bench.empty(tokens, hidden)
    weights, grad_rows = bench.normal(tokens, top_k, dtype=torch.float32), bench.empty(slots, hidden)
    grad_weights, token_ids = bench.empty(tokens, top_k, dtype=torch.float32), routed.slot_ids // top_k
    places = routed.row_ids.view(tokens, top_k)

    def combine(rows, places, weights):
        return (rows[places] * weights[..., None]).sum(1).to(rows.dtype)

    compiled, shape, size = (
        bench.compile(combine),
        f"{tokens} x {hidden}, {experts} experts, top {top_k}",
        x.numel() * 2,
    )
    yield Case(
        "sort by expert",
        f"{slots} slots, {experts} experts",
        {
            "ours": routed.sort,
            "stable argsort, bincount": lambda: (
                torch.argsort(routed.ids.flatten(), stable=True),
                torch.bincount(routed.ids.flatten(), minlength=experts),
            ),
        },
        slots * 24,
    )
    yield Case(
        "permute",
        shape,
        {
            "ours": bench.call("e5_moe_permute", CODE, x, routed.row_ids, tokens, top_k, hidden, rows),
            "index_select": lambda: torch.index_select(x, 0, token_ids, out=rows),
        },
        (1 + top_k) * size,
    )
    yield Case(
        "combine",
        shape,
        {
            "ours": bench.call("e5_moe_combine", CODE, rows, routed.row_ids, weights, tokens, top_k, hidden, out),
            "compiled": lambda: compiled(rows, places, weights),
        },
        (1 + top_k) * size,
    )
    yield Case(
        "combine backward",
        shape,
        {
            "ours": bench.call(
                "e5_moe_combine_backward",
                CODE,
                out,
                rows,
                routed.row_ids,
                weights,
                tokens,
                top_k,
                hidden,
                grad_rows,
                grad_weights,
            ),
        },
        (1 + 2 * top_k) * size,
    )


def cross_entropy_cases(bench: Bench) -> Iterator[Case]:
    rows, vocab = bench.size(8192, 8), bench.size(131072, 256)
    logits, labels = bench.normal(rows, vocab, grad=True), torch.randint(vocab, [rows], device=bench.device)
    state = [bench.empty(rows, dtype=torch.float32) for _ in range(3)]
    loss, lse = (bench.empty(rows, dtype=torch.float32) for _ in range(2))
    grad = torch.full([rows], 1 / rows, device=bench.device)
    chunk = bench.call("e5_cross_entropy_chunk", CODE, logits, labels, rows, 0, vocab, 1, *state)
    finish = bench.call("e5_cross_entropy_finish", labels, -100, rows, *state, loss, lse)
    compiled = bench.compile(lambda logits, labels: F.cross_entropy(logits.float(), labels))
    shape, size = f"{rows} x {vocab}", rows * vocab * 2
    with torch.no_grad():
        yield Case(
            "cross_entropy",
            shape,
            {
                "ours": lambda: (chunk(), finish()),
                "F.cross_entropy": lambda: F.cross_entropy(logits, labels),
                "compiled": lambda: compiled(logits, labels),
            },
            size,
        )
    scratch = logits.detach().clone()
    one = torch.ones([], device=bench.device)
    yield Case(
        "cross_entropy backward",
        shape,
        {
            "ours": bench.call("e5_cross_entropy_backward", CODE, scratch, labels, lse, grad, rows, 0, vocab, -100),
            "compiled": gradients(compiled(logits, labels), [logits], one),
        },
        2 * size,
    )


def bitwise_cross_entropy_cases(bench: Bench) -> Iterator[Case]:
    rows, bits = bench.size(1 << 21, 64), 32
    logits, targets = bench.normal(rows, bits), torch.randint(2, [rows, bits], device=bench.device).float()
    weights, loss = bench.normal(rows, dtype=torch.float32), bench.empty(rows, dtype=torch.float32)
    compiled = bench.compile(
        lambda logits, targets, weights: (
            F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(-1) * weights
        )
    )
    inputs = (logits, targets, weights)
    yield Case(
        "bitwise_cross_entropy",
        f"{rows} x {bits}",
        {
            "ours": bench.call(
                "e5_bitwise_cross_entropy", CODE, logits, targets, weights, rows, bits, bits, loss, None
            ),
            "compiled": lambda: compiled(*inputs),
        },
        logits.numel() * 6 + rows * 8,
    )


def attention_cases(bench: Bench) -> Iterator[Case]:
    """Causal, and causal within packed documents of unequal lengths."""
    for batch, seq, heads, kv_heads, head_dim, documents in (
        (bench.size(4, 1), bench.size(4096, 128), bench.size(32, 2), bench.size(8, 1), 128, 1),
        (bench.size(1, 1), bench.size(16384, 128), bench.size(32, 2), bench.size(8, 1), 128, 1),
        (bench.size(1, 1), bench.size(16384, 128), bench.size(32, 2), bench.size(8, 1), 128, 12),
        (bench.size(4, 1), bench.size(4096, 128), bench.size(32, 2), bench.size(8, 1), 64, 1),
    ):  # fmt: skip
        random = torch.Generator().manual_seed(0)
        cuts = (
            torch.cat([torch.randperm(seq - 1, generator=random)[: documents - 1] + 1, torch.tensor([seq])])
            .sort()
            .values
        )
        place = torch.arange(seq)
        ends = cuts[torch.searchsorted(cuts, place, right=True)]
        starts = torch.cat([torch.tensor([0]), cuts])[torch.searchsorted(cuts, place, right=True)]
        pairs = batch * int((place - starts + 1).sum())  # that are visible
        rows = ends.to(torch.int32).expand(batch, seq).contiguous().to(bench.device)
        document = torch.searchsorted(cuts, place, right=True).to(bench.device)
        yield from _attention(bench, batch, seq, heads, kv_heads, head_dim, documents, rows, document, pairs)


def _attention(bench, batch, seq, heads, kv_heads, head_dim, documents, rows, document, pairs) -> Iterator[Case]:
    query, grad = bench.normal(batch, seq, heads, head_dim, grad=True), bench.normal(batch, seq, heads, head_dim)
    key, value = (bench.normal(batch, seq, kv_heads, head_dim, grad=True) for _ in range(2))
    inputs = [query, key, value]
    bounds = bench.workspace("e5_attention_bounds_size", batch, seq)
    mask = (rows, batch, 1, 1)  # one column, causal
    prepare = bench.call("e5_attention_bounds", *mask, batch, seq, seq, bounds)
    prepare()
    out, grads = torch.empty_like(query), [torch.empty_like(one) for one in inputs]
    sums, products = (bench.empty(batch, heads, seq, dtype=torch.float32) for _ in range(2))
    sizes = (batch, seq, seq, heads, kv_heads, head_dim, head_dim**-0.5)
    forward = bench.call("e5_attention_forward", *inputs, *mask, bounds, *sizes, out, sums)
    backward = bench.call("e5_attention_backward", *inputs, out, grad, sums, *mask, bounds, *sizes, products, *grads)
    forward()
    turned = [one.transpose(1, 2) for one in inputs]
    others: dict[str, Callable] = {}
    if documents == 1:
        others["SDPA"] = lambda: F.scaled_dot_product_attention(*turned, is_causal=True, enable_gqa=True)
    if bench.device == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def seen(b, h, query_id, key_id):
            return (query_id >= key_id) & (document[query_id] == document[key_id])

        mask = create_block_mask(seen, None, None, seq, seq, device=bench.device)
        flex = bench.compile(flex_attention)
        others["FlexAttention"] = lambda: flex(*turned, block_mask=mask, enable_gqa=True)
    operations = 4.0 * pairs * heads * head_dim
    shape = f"{batch} x {seq}, {heads}/{kv_heads} heads of {head_dim}, {documents} document(s)"
    with torch.no_grad():
        yield Case("attention", shape, {"ours": lambda: (prepare(), forward()), **others}, operations=operations)
    backwards = {name: gradients(job(), inputs, grad.transpose(1, 2)) for name, job in others.items()}
    yield Case("attention backward", shape, {"ours": backward, **backwards}, operations=2.5 * operations)


def expert_ffn_cases(bench: Bench) -> Iterator[Case]:
    top_k = 8
    for tokens, experts in (
        (bench.size(4096, 4), bench.size(256, 8)),
        (bench.size(16384, 4), bench.size(256, 8)),
        (bench.size(4096, 4), bench.size(384, 16)),
    ):
        hidden, ffn = bench.size(7168, 32), bench.size(2048, 16)
        yield from _expert_ffn(bench, tokens, experts, top_k, hidden, ffn)
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def _expert_ffn(bench: Bench, tokens: int, experts: int, top_k: int, hidden: int, ffn: int) -> Iterator[Case]:
    routed, slots = Routed(bench, tokens, experts, top_k), tokens * top_k
    rows, grad = bench.normal(slots, hidden), bench.normal(slots, hidden)
    weights = bench.normal(slots, dtype=torch.float32)
    gate_up = bench.normal(experts, hidden, 2 * ffn, scale=hidden**-0.5)
    down = bench.normal(experts, ffn, hidden, scale=ffn**-0.5)
    inner, activations, scratch = bench.empty(slots, 2 * ffn), bench.empty(slots, ffn), bench.empty(slots, ffn)
    out, grad_rows, grad_weights = (
        bench.empty(slots, hidden),
        bench.empty(slots, hidden),
        bench.empty(slots, dtype=torch.float32),
    )
    grad_inner = torch.empty_like(inner)
    grad_gate_up, grad_down = torch.empty_like(gate_up), torch.empty_like(down)
    head, sizes = (rows, weights, routed.counts, routed.offsets, gate_up, down), (slots, experts, hidden, ffn)
    forward = bench.call("e5_expert_ffn_forward", *head, *sizes, inner, activations, out)
    backward = bench.call(
        "e5_expert_ffn_backward",
        *head,
        grad,
        *sizes,
        inner,
        activations,
        scratch,
        grad_inner,
        grad_rows,
        grad_weights,
        grad_gate_up,
        grad_down,
    )
    ends = routed.offsets[1:].to(torch.int32)
    swiglu = bench.compile(lambda x, weights: (F.silu(x[:, :ffn]) * x[:, ffn:] * weights[:, None]).to(x.dtype))

    def swiglu_backward(x, weights, grad):
        gate, up, grad = x[:, :ffn].float(), x[:, ffn:].float(), grad.float()
        share = torch.sigmoid(gate)
        grad_y = grad * weights[:, None]
        both = torch.cat([grad_y * up * share * (1 + gate * (1 - share)), grad_y * gate * share], -1)
        y = gate * share * up
        return both.to(x.dtype), (y * weights[:, None]).to(x.dtype), (grad * y).sum(-1)

    compiled_backward, saved = bench.compile(swiglu_backward), bench.normal(slots, 2 * ffn)
    product = torch._grouped_mm

    def torch_forward():
        return product(swiglu(product(rows, gate_up, ends), weights), down, ends)

    def torch_backward():
        grad_inner, y, _ = compiled_backward(saved, weights, product(grad, down.transpose(1, 2), ends))
        return (
            product(grad_inner, gate_up.transpose(1, 2), ends),
            product(y.t(), grad, ends),
            product(rows.t(), grad_inner, ends),
        )

    shape = f"{tokens} x {hidden}, {experts} experts of {ffn}, top {top_k}"
    matrices, operations = (gate_up.numel() + down.numel()) * 2, 6.0 * slots * hidden * ffn
    moved = matrices + slots * (2 * hidden + 2 * ffn) * 2
    yield Case("expert_ffn", shape, {"ours": forward, "torch._grouped_mm": torch_forward}, moved, operations)
    moved = 2 * matrices + slots * (3 * hidden + 8 * ffn) * 2
    yield Case(
        "expert_ffn backward", shape, {"ours": backward, "torch._grouped_mm": torch_backward}, moved, 2 * operations
    )


SUITES = {
    "rms_norm": rms_norm_cases,
    "swiglu": swiglu_cases,
    "uni_rope": uni_rope_cases,
    "router": router_cases,
    "moe": moe_cases,
    "cross_entropy": cross_entropy_cases,
    "bitwise_cross_entropy": bitwise_cross_entropy_cases,
    "attention": attention_cases,
    "expert_ffn": expert_ffn_cases,
}


def seconds(jobs: dict[str, Job], rounds: int, device: str) -> dict[str, float]:
    """Median of each job over the rounds; three rounds more warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 3):
        for name, job in jobs.items():
            if device == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                torch.cuda._sleep(200_000)  # the device waits while the host prepares, so launches do not count
                begin.record()
                job()
                end.record()
                torch.cuda.synchronize()
                spent = begin.elapsed_time(end) / 1e3
            else:
                start = time.perf_counter()
                job()
                spent = time.perf_counter() - start
            if turn >= 3:
                times[name].append(spent)
    return {name: statistics.median(found) for name, found in times.items()}


def measure_floors(bench: Bench, rounds: int) -> Floors:
    one = bench.normal(bench.size(1 << 30, 1 << 16))
    other, size = torch.empty_like(one), bench.size(8192, 64)
    a, b = bench.normal(size, size), bench.normal(size, size)
    found = seconds({"copy": lambda: other.copy_(one), "dense": lambda: a @ b}, rounds, bench.device)
    return Floors(2 * one.numel() * 2 / found["copy"], 2.0 * size**3 / found["dense"])


def table_rows(case: Case, found: dict[str, float], floors: Floors) -> Iterator[str]:
    ours = next(iter(found.values()))
    floor = max(case.bytes / floors.copy, case.operations / floors.dense)
    for name, spent in found.items():
        speed = f"{case.bytes / spent / 1e9:.0f}" if case.bytes else ""
        rate = f"{case.operations / spent / 1e12:.0f}" if case.operations else ""
        label = f"{case.name} | {case.shape}" if spent is ours else " | "
        yield f"| {label} | {name} | {spent * 1e3:.3f} | {speed} | {rate} | {floor / spent:.0%} | {spent / ours:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=build_capi.LIBRARY, help="default %(default)s")
    parser.add_argument("--only", nargs="+", default=list(SUITES), choices=list(SUITES), help="default: all")
    parser.add_argument("--rounds", type=int, default=20, help="default %(default)s")
    parser.add_argument("--smoke", action="store_true", help="small sizes, one round: does every job run?")
    parser.add_argument("--output", type=Path, help="write the table there too")
    options = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(options.library, options.smoke)
    if bench.device == "cpu" and not options.smoke:
        sys.exit("no CUDA device: only --smoke, with the emulated library, runs here")
    rounds = 1 if options.smoke else options.rounds
    floors = measure_floors(bench, rounds)
    where = torch.cuda.get_device_name() if bench.device == "cuda" else "emulated"
    lines = [
        f"{where}, torch {torch.__version__}: copy {floors.copy / 1e12:.2f} TB/s, dense bfloat16 product "
        f"{floors.dense / 1e12:.0f} TFLOP/s, median of {rounds}",
        "",
        "| operator | shape | job | ms | GB/s | TFLOP/s | of the floor | time over ours |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for suite in options.only:
        for case in SUITES[suite](bench):
            found = seconds(case.jobs, rounds, bench.device)
            assert all(map(math.isfinite, found.values()))
            rows = list(table_rows(case, found, floors))
            print("\n".join(rows), flush=True)
            lines += rows
            case.jobs.clear()  # lets go of its tensors before the next case makes its own
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
