"""Decoder layers over pages as one operator against the layers themselves, operator by operator in plain Paddle."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.layers.layout import Layout
from ernie5.layers.pages import PagedMask, Pages, Row
from ernie5.layers.rope import rotation
from ernie5.modality.token_layout import TO_THE_END
from ernie5.model.block import Block, run_blocks
from ernie5.model.decoder import Decoder
from ernie5.model.subnet import make_subnet
from ernie5.ops import backend
from tests.paged import PagedRows

pytest.importorskip("ernie5_ops")
CONFIG = ModelConfig(
    name="block",
    vocab_size=8,
    hidden_size=40,
    num_hidden_layers=1,
    intermediate_size=24,
    attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=6),
    moe=MoEConfig(num_experts=7, num_experts_per_tok=2, moe_intermediate_size=20, num_shared_experts=1),
)
LAYERS = {
    "routed and shared experts": CONFIG,
    "routed experts": replace(CONFIG, moe=replace(CONFIG.moe, num_shared_experts=0)),
    "sigmoid scores, scaled": replace(
        CONFIG, moe=replace(CONFIG.moe, router_score="sigmoid", routed_scaling_factor=2.5)
    ),
    "dense": replace(CONFIG, moe=replace(CONFIG.moe, num_experts=0)),
    "as many heads as key-value heads": replace(
        CONFIG, attention=AttentionConfig(num_attention_heads=3, num_key_value_heads=3, head_dim=16)
    ),
    "vectors that fill lines": replace(
        CONFIG,
        hidden_size=128,
        attention=AttentionConfig(num_attention_heads=8, num_key_value_heads=2, head_dim=32),
        moe=replace(CONFIG.moe, moe_intermediate_size=64),
    ),
}
PER_STEP = 1e-4  # of float32 outputs of about 1, each a chain of products


@pytest.fixture(autouse=True)
def compiled():
    paddle.seed(0)
    with backend.using("native"), paddle.no_grad():
        assert backend.is_native("paged_decoder_layers")
        yield


def build(config: ModelConfig, dtype: str = "float32") -> Block:
    """Weights as large as trained ones, norms and expert biases that are not all the same."""
    block = Block(replace(config, initializer_range=0.2), 0)
    rng = np.random.default_rng(1)
    for name, tensor in block.named_parameters():
        if "norm" in name:
            tensor.set_value(rng.uniform(0.5, 1.5, tensor.shape).astype("float32"))
    if block.routes:
        block.mlp.gate.expert_bias.set_value(rng.normal(scale=0.1, size=[config.moe.num_experts]).astype("float32"))
        gate = block.mlp.gate.weight.numpy()
    if dtype != "float32":
        block.to(dtype=dtype)
        if block.routes:
            block.mlp.gate.weight = paddle.create_parameter(
                gate.shape, "float32", default_initializer=nn.initializer.Assign(gate)
            )
            block.mlp.gate.expert_bias = block.mlp.gate.expert_bias.astype("float32")
    return block


def read(block: Block, config: ModelConfig, states, chunks, seen=None, expert_mask=None, top_k=2):
    """What the layer gives for sequences of one length, states [rows, tokens, hidden], read in chunks one behind the
    other in a ragged row: the outputs, the loads and the pages. `seen` [rows, 2, tokens]: from and until of each."""
    count, length, width = states.shape
    shape = config.attention.num_key_value_heads, config.attention.head_dim
    rows = PagedRows(count, length, [0], shape, str(states.dtype).removeprefix("paddle."))
    outputs, loads, start = [], [], 0
    if expert_mask is None:
        expert_mask = paddle.zeros([config.moe.num_experts])
    for size in chunks:
        end = start + size
        positions = paddle.arange(start, end, dtype="float32").tile([count]).reshape([1, -1, 1]).expand([1, -1, 3])
        mask = rows.mask([size] * count, None if seen is None else seen[:, :, start:end])
        ragged = states[:, start:end].reshape([1, -1, width])
        layout = Layout(mask, rotation(positions, config.attention))
        output, load = run_blocks([block], ragged, layout, [expert_mask], top_k, [rows.pages.layers[0]])
        outputs.append(output.reshape([count, size, width]))
        loads.append(None if load[0] is None else np.asarray(load[0]))
        start = end
    return paddle.concat(outputs, 1).astype("float32").numpy(), loads, rows.pages.layers[0]


def compare(block, config, states, chunks, close, **given) -> None:
    native, loads, pages = read(block, config, states, chunks, **given)
    assert pages.weights is not None, "the operator did not run"
    with backend.using("reference"):
        plain, plain_loads, plain_pages = read(block, config, states, chunks, **given)
    assert plain_pages.weights is None
    np.testing.assert_allclose(native, plain, **close)
    np.testing.assert_equal(loads, plain_loads)
    for ours, theirs in ((pages.keys, plain_pages.keys), (pages.values, plain_pages.values)):
        np.testing.assert_allclose(ours.astype("float32").numpy(), theirs.astype("float32").numpy(), **close)


@pytest.mark.parametrize("chunks", [[9], [1] * 6, [5, 1, 1, 4], [62, 1, 1, 1, 70, 1]], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_operator_is_the_layer(name, chunks):
    config = LAYERS[name]
    states = paddle.randn([2, sum(chunks), config.hidden_size])
    compare(build(config), config, states, chunks, {"rtol": PER_STEP, "atol": PER_STEP})


@pytest.mark.parametrize("batch", [1, 3, 8, 13])
def test_rows_do_not_mix(batch):
    block, states = build(CONFIG), paddle.randn([batch, 7, 40])
    compare(block, CONFIG, states, [6, 1], {"rtol": PER_STEP, "atol": PER_STEP})
    together, _, _ = read(block, CONFIG, states, [6, 1])
    for row in range(batch):
        alone, _, _ = read(block, CONFIG, states[row : row + 1], [6, 1])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=PER_STEP, atol=PER_STEP)


def test_every_row_has_its_own_mask():
    """The second row's first three tokens are seen by themselves alone, its next two see each other."""
    length = 8
    seen = np.stack([np.stack([np.arange(length), np.full(length, length)])] * 2)
    seen[1, 1, :3] = np.arange(1, 4)
    seen[1, 0, 3:5] = 3
    block, states = build(CONFIG), paddle.randn([2, length, 40])
    close = {"rtol": PER_STEP, "atol": PER_STEP}
    compare(block, CONFIG, states, [5, 1, 1, 1], close, seen=seen)
    other = states.clone()
    other[1, :3] = 7.0
    first, second = (read(block, CONFIG, one, [5, 1, 1, 1], seen=seen)[0] for one in (states, other))
    np.testing.assert_allclose(first[0], second[0], **close)
    np.testing.assert_allclose(first[1, 3:], second[1, 3:], **close)
    assert (first[1, :3] != second[1, :3]).any()
    other = states.clone()
    other[1, 4] = 7.0
    third = read(block, CONFIG, other, [5, 1, 1, 1], seen=seen)[0]
    np.testing.assert_allclose(third[1, :3], first[1, :3], **close)
    assert np.abs(third[1, 3] - first[1, 3]).max() > 1e-2  # it sees what stands behind it


def test_rows_of_several_lengths_and_numbers_that_pages_have_been_let_go_before():
    """A ragged step of the engine's kind: a word, a prompt, none, and a sequence whose first page is gone."""
    block, shape = build(CONFIG), (2, 6)
    results = []
    for mode in ("native", "reference"):
        with backend.using(mode):
            paddle.seed(1)
            pages = Pages([0], shape, paddle.float32)
            pages.resize(6)
            rows = [Row(1, 70, 70, (4, 2)), Row(20, 0, 0, (0,)), Row(0, 0, 0, ()), Row(2, 63, 127, (1, 5))]
            rng = np.random.default_rng(0)
            for row in (rows[0], rows[3]):
                numbers = np.arange(row.number - row.kept, row.number)
                until = np.where(rng.random(row.kept) < 0.2, row.number + 1, TO_THE_END)
                pages.mark(Row(row.kept, 0, 0, row.pages), numbers, until)
            layer = pages.layers[0]
            layer.keys, layer.values = paddle.randn(layer.keys.shape), paddle.randn(layer.values.shape)
            for row in rows:
                pages.mark(row, row.number + np.arange(row.tokens), TO_THE_END)
            layout = Layout(PagedMask(rows, pages), rotation(paddle.rand([1, 23, 3]) * 100, CONFIG.attention))
            output, _ = run_blocks([block], paddle.randn([1, 23, 40]), layout, [paddle.zeros([7])], 2, [layer])
            assert (layer.weights is not None) == (mode == "native")
            results.append([output.numpy(), layer.keys.numpy(), layer.values.numpy()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=PER_STEP, atol=PER_STEP)


def test_experts_that_the_subnet_lacks_are_not_asked():
    mask = np.full([7], -np.inf, np.float32)
    mask[[2, 5]] = 0
    block, states = build(CONFIG), paddle.randn([1, 6, 40])
    given = {"expert_mask": paddle.to_tensor(mask), "top_k": 1}
    compare(block, CONFIG, states, [5, 1], {"rtol": PER_STEP, "atol": PER_STEP}, **given)
    _, loads, _ = read(block, CONFIG, states, [5, 1], **given)
    assert all(
        load[[0, 1, 3, 4, 6]].sum() == 0 and load.sum() == size for load, size in zip(loads, [5, 1], strict=True)
    )


@pytest.mark.parametrize("name", ["routed and shared experts", "dense", "vectors that fill lines"])
def test_float64(name):
    """Angles and the router are float32 there too."""
    config = LAYERS[name]
    states = paddle.randn([2, 6, config.hidden_size]).astype("float64")
    compare(build(config, "float64"), config, states, [5, 1], {"rtol": PER_STEP, "atol": PER_STEP})


@pytest.mark.parametrize("name", ["routed and shared experts", "dense", "vectors that fill lines"])
def test_bfloat16(name):
    """Against the plain layer in float32 with the same rounded weights; all experts are asked, so none is swapped."""
    config = LAYERS[name]
    block, wide = build(config, "bfloat16"), build(config)
    for ours, theirs in zip(wide.parameters(), block.parameters(), strict=True):
        ours.set_value(theirs.astype("float32"))
    states = paddle.randn([2, 6, config.hidden_size]).astype("bfloat16")
    top_k = max(config.moe.num_experts, 1)
    native, _, pages = read(block, config, states, [5, 1], top_k=top_k)
    assert pages.weights is not None
    with backend.using("reference"):
        plain, _, _ = read(wide, config, states.astype("float32"), [5, 1], top_k=top_k)
    assert np.square(native - plain).mean() < np.square(0.02) * np.square(plain).mean()


def test_layers_that_the_operator_does_not_know_run_as_they_are():
    config = replace(CONFIG, attention=replace(CONFIG.attention, use_bias=True))
    output, _, pages = read(build(config), config, paddle.randn([1, 3, 40]), [2, 1])
    assert pages.weights is None and output.shape == (1, 3, 40)


def test_gradients_are_the_plain_layers():
    block, states = build(CONFIG), paddle.randn([1, 3, 40])
    with paddle.enable_grad():
        read_rows = PagedRows(1, 3, [0], (2, 6))
        layout = Layout(read_rows.mask([3]), rotation(paddle.zeros([1, 3, 3]), CONFIG.attention))
        layer = read_rows.pages.layers[0]
        run_blocks([block], states, layout, [paddle.zeros([7])], 2, [layer]).hidden_states.sum().backward()
    assert layer.weights is None and block.self_attn.q_proj.weight.grad is not None


DEEP = replace(CONFIG, num_hidden_layers=5, initializer_range=0.2, moe=replace(CONFIG.moe, num_dense_layers=1))
EXPERTS = np.arange(6 * 7).reshape(6, 7) % 3 > 0  # that are kept, in each layer


@pytest.mark.parametrize("taps", [(), (2,), (0, 3, 4)], ids=str)
@pytest.mark.parametrize("layer_ids", [(0, 1, 2, 3, 4), (0, 2, 3, 4)], ids=str)
def test_a_stack_is_one_call_between_what_reads_behind_its_layers(monkeypatch, layer_ids, taps):
    decoder, calls = Decoder(DEEP), []
    subnet = make_subnet(DEEP, layer_ids, EXPERTS[: 5 + DEEP.num_nextn_predict_layers], 2)
    call = backend.call
    monkeypatch.setattr(backend, "call", lambda name, *given: calls.append(name) or call(name, *given))

    def outputs() -> list[np.ndarray]:
        rows, found = PagedRows(2, 6, layer_ids, (2, 6)), []
        for start, size in ((0, 4), (4, 1), (5, 1)):
            states = np.sin(np.arange(2 * size * 40) + start).reshape([1, 2 * size, 40]).astype("float32")
            positions = paddle.full([1, 2 * size, 3], float(start))
            layout = Layout(rows.mask([size, size]), rotation(positions, DEEP.attention))
            changes = {layer: lambda states, by=layer + 1: states * by for layer in taps if layer in layer_ids}
            output = decoder(paddle.to_tensor(states), layout, subnet, rows.pages.layers, changes)
            loads = [np.asarray(output.tokens_per_expert[layer]) for layer in sorted(output.tokens_per_expert)]
            found += [output.hidden_states.numpy(), output.residual.numpy(), np.array(loads)]
            assert list(output.tokens_per_expert) == [layer for layer in layer_ids if layer > 0]
        return found

    native = outputs()
    parts = len({place for place in taps if place in layer_ids} | {layer_ids[-1]})
    assert calls.count("paged_decoder_layers") == 3 * parts
    with backend.using("reference"):
        expected = outputs()
    for ours, theirs in zip(native, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def inputs(new: int = 1, past: int = 2) -> dict:
    weights = build(CONFIG).gathered()
    return {
        "X": paddle.randn([1, new, 40]),
        "Cos": paddle.ones([1, new, 1, 3]),
        "Sin": paddle.zeros([1, new, 1, 3]),
        "Rows": paddle.to_tensor([[new, past, past]]),
        "Tables": paddle.to_tensor([[1]], "int32"),
        "Seen": paddle.zeros([2, 64, 2], "int32"),
        "Keys": [paddle.randn([2, 64, 2, 6])],
        "Values": [paddle.randn([2, 64, 2, 6])],
        "Weights": [*weights.attention, *weights.mlp, *weights.experts[:2], paddle.zeros([7]), *weights.experts[2:]],
    }


def call(given: dict, top_k: int = 2) -> list[paddle.Tensor]:
    return backend.call("paged_decoder_layers", list(given.values()), [3], top_k, False, 1.0, 1e-5)


WRONG = {
    "x is flat": ({"X": paddle.zeros([1, 40])}, 2, "x has shape"),
    "another hidden size": ({"X": paddle.zeros([1, 1, 24])}, 2, "input_norm has shape"),
    "another dtype": ({"X": paddle.zeros([1, 1, 40], "float64")}, 2, "key_cache has dtype"),
    "no room": ({"Rows": paddle.to_tensor([[1, 64, 64]])}, 2, "row 0 needs 2 pages and has 1"),
    "a page that is not there": ({"Tables": paddle.to_tensor([[2]], "int32")}, 2, "row 0 has page 2 of 2"),
    "a page below the first": ({"Tables": paddle.to_tensor([[-1]], "int32")}, 2, "row 0 has page -1 of 2"),
    "tokens of nobody": ({"Rows": paddle.to_tensor([[0, 2, 2]])}, 2, "the rows have 0 tokens, x has 1"),
    "fewer than none": ({"Rows": paddle.to_tensor([[1, -1, 0]])}, 2, "row 0 has 1 tokens behind -1"),
    "a number below its place": ({"Rows": paddle.to_tensor([[1, 2, 1]])}, 2, "the first is number 1"),
    "pages of another size": (
        {"Seen": paddle.zeros([2, 48, 2], "int32")}, 2, "a page has 48 keys, expected a multiple of 64"
    ),
    "angles of other tokens": ({"Cos": paddle.ones([1, 2, 1, 3])}, 2, "cos has shape"),
    "other pages": ({"Values": [paddle.zeros([3, 64, 2, 6])]}, 2, "value_cache has shape"),
    "too few pages": ({"Values": []}, 2, "1 caches of keys and 0 of values for 1 layers"),
    "too few weights": ({"Weights": [paddle.zeros([40])]}, 2, "1 weights, expected 14"),
    "too many choices": ({}, 8, "top_k is 8 of 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_end_in_one_sentence(name):
    changed, top_k, sentence = WRONG[name]
    with pytest.raises(OSError, match=sentence):
        call(inputs() | changed, top_k)


def test_no_tokens_give_no_rows():
    assert call(inputs(new=0, past=3))[0].shape == [1, 0, 40]


def test_shapes_at_random():
    rng = np.random.default_rng(5)
    for _ in range(12):
        kv_heads, group, experts = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 9))
        config = replace(
            CONFIG,
            hidden_size=int(rng.integers(1, 70)),
            attention=AttentionConfig(
                num_attention_heads=kv_heads * group,
                num_key_value_heads=kv_heads,
                head_dim=2 * int(rng.integers(1, 12)),
            ),
            moe=replace(CONFIG.moe, num_experts=experts, moe_intermediate_size=int(rng.integers(1, 40))),
        )
        chunks = rng.integers(1, 15, 3).tolist()
        states = paddle.randn([int(rng.integers(1, 4)), sum(chunks), config.hidden_size])
        top_k = int(rng.integers(1, experts + 1))
        compare(build(config), config, states, chunks, {"rtol": 1e-3, "atol": 1e-3}, top_k=top_k)
