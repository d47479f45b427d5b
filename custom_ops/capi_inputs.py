"""What the checks of the C interface compare with, and what they make their inputs from."""

import numpy as np

from custom_ops.capi_memory import DTYPES, Buffer, Device, rounded

TOLERANCES = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 6e-3}  # rounding of one output and of float32 sums
PRODUCTS = 1.2e-2  # chains of products whose middle is kept in bfloat16
IGNORED = -100


def close(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str, least: float = 0.0) -> None:
    """least: values whose root mean square is below it are measured against it, as where large terms cancel."""
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    assert np.isfinite(found).all(), f"{what}: {np.count_nonzero(~np.isfinite(found))} values are not finite"
    if not expected.size:
        return
    error = found - expected
    norm, size = np.linalg.norm(error), max(np.linalg.norm(expected), least * expected.size**0.5, 1e-30)
    assert norm <= tolerance * size, f"{what}: error {norm / size:.2e} of the norm, at most {tolerance}"
    largest, scale = np.abs(error).max(), max(np.abs(expected).max(), least, 1e-30)
    assert largest <= 8 * tolerance * scale, f"{what}: largest error {largest:.2e}, largest value {scale:.2e}"


def same(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert (found == expected).all(), f"{what}: {np.count_nonzero(found != expected)} of {found.size} values differ"


class Inputs:
    """Random values of one seed, rounded to the dtype, with their copy on the device."""

    def __init__(self, device: Device, dtype: str, seed: int):
        self.device, self.dtype, self.random = device, dtype, np.random.default_rng(seed)

    def normal(self, *shape: int, dtype: str = "", scale: float = 1.0) -> tuple[np.ndarray, Buffer]:
        return self.of(self.random.normal(0, scale, shape), dtype)

    def of(self, values: np.ndarray, dtype: str = "") -> tuple[np.ndarray, Buffer]:
        values = rounded(values, dtype or self.dtype)
        return values, self.device.array(values, dtype or self.dtype)


def routing(random, tokens: int, experts: int, top_k: int, kind: str) -> np.ndarray:
    """Distinct experts for each token, int64 [tokens, top_k]; kind `one`: as many tokens as can be go to the same."""
    if kind == "one":
        return np.tile(np.arange(top_k), (tokens, 1)).astype(np.int64)
    keys = random.random([tokens, experts])
    if kind == "skewed":
        keys /= 1 + np.arange(experts)[::-1]
    return np.argsort(keys, -1)[:, :top_k].astype(np.int64)


class Sorted:
    """What sort_by_expert made of ids [tokens, top_k], on the device and here."""

    def __init__(self, device: Device, ids: np.ndarray, experts: int, alignment: int = 1):
        slots = ids.size
        self.num_rows = slots + experts * (alignment - 1)
        self.row_ids_, self.slot_ids_ = device.empty(slots, dtype="int64"), device.empty(self.num_rows, dtype="int64")
        self.token_ids_ = device.empty(self.num_rows, dtype="int64")
        self.counts_, self.offsets_ = device.empty(experts, dtype="int64"), device.empty(experts + 1, dtype="int64")
        workspace = device.empty(device.size("e5_sort_workspace", slots, experts) // 4, dtype="int32")
        device.run(
            "e5_sort_by_expert",
            device.array(ids, "int64"),
            slots,
            ids.shape[1],
            experts,
            alignment,
            self.num_rows,
            self.row_ids_,
            self.slot_ids_,
            self.token_ids_,
            self.counts_,
            self.offsets_,
            workspace,
        )
        self.row_ids = self.row_ids_.numpy().reshape(ids.shape)


def mask_columns(random, batch: int, queries: int, keys: int, kind: str) -> tuple[np.ndarray, bool, np.ndarray]:
    """(columns int32 [batch or 1, keys, 0, 1, 2 or 4], causal, visible bool [batch, queries, keys])."""
    query, key = np.arange(queries)[:, None], np.arange(keys)[None]
    ahead = query >= key - (keys - queries)
    if kind in ("full", "causal"):
        visible = ahead if kind == "causal" else np.ones_like(ahead)
        return np.zeros([1, keys, 0], np.int32), kind == "causal", np.broadcast_to(visible, [batch, queries, keys])
    ends = np.empty([batch, keys], np.int64)  # of each key's document
    starts = np.empty([batch, keys], np.int64)
    for one in range(batch):
        cuts = np.sort(random.choice(np.arange(1, keys), min(4, keys - 1), replace=False))
        edges = np.concatenate([[0], cuts, [keys]])
        document = np.searchsorted(edges, np.arange(keys), "right") - 1
        starts[one], ends[one] = edges[document], edges[document + 1]
    rows, causal = None, kind in ("documents", "shared", "gaps")
    if kind == "documents":  # one column: causal within documents
        rows = ends[..., None]
    elif kind == "shared":  # the same for all of the batch
        rows = ends[:1, :, None]
    elif kind == "gaps":  # two columns, causal: each key is hidden from a run of queries
        rows = np.sort(random.integers(0, queries + 1, [batch, keys, 2]), -1)
    elif kind == "beyond":  # one column that is not causal
        rows = random.integers(0, queries + 1, [batch, keys, 1])
    elif kind == "blocks":  # two columns: documents that see all of themselves
        rows = np.stack([ends, starts], -1)
    elif kind == "blind":  # two columns: some queries see nothing at all
        rows = np.stack(
            [np.minimum(ends, queries // 3), np.minimum(np.arange(keys), queries // 4)[None].repeat(batch, 0)], -1
        )
    elif kind == "holes":  # four columns: each key is hidden from two random ranges
        rows = np.sort(random.integers(0, queries + 1, [batch, keys, 4]), -1)
    visible = np.broadcast_to(_visible(rows, query, causal), [batch, queries, keys])
    return rows.astype(np.int32), causal, visible & ahead if causal else visible


def _visible(rows: np.ndarray, query: np.ndarray, causal: bool) -> np.ndarray:
    """The definition in ernie5/ops/attention.py, without what a causal mask hides beside."""
    column = [rows[:, None, :, i] for i in range(rows.shape[-1])]
    if len(column) == 1:
        return query < column[0]
    if len(column) == 2 and not causal:
        return (query < column[0]) & (query >= column[1])
    hidden = (query >= column[0]) & (query < column[1])
    return ~(hidden | (query >= column[2]) & (query < column[3])) if len(column) == 4 else ~hidden


def code_of(dtype: str) -> int:
    return DTYPES[dtype]
