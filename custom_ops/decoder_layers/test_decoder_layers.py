"""Decoder layers as one operator against the layers themselves, operator by operator in plain Paddle."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.layers.attention import LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.rope import rotation
from ernie5.model.block import Block, run_blocks
from ernie5.model.decoder import Decoder
from ernie5.model.subnet import make_subnet
from ernie5.ops import backend
from ernie5.ops.attention import Mask

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
        assert backend.is_native("decoder_layers")
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


def read(block: Block, config: ModelConfig, states: paddle.Tensor, chunks, columns=None, expert_mask=None, top_k=2):
    """The outputs of `chunks` read one after the other over a cache, the loads, and the cache."""
    cache, outputs, loads, start = LayerCache(), [], [], 0
    if expert_mask is None:
        expert_mask = paddle.zeros([config.moe.num_experts])
    for size in chunks:
        end = start + size
        positions = paddle.arange(start, end, dtype="float32").reshape([1, size, 1]).expand([1, size, 3])
        if columns is None:  # words: each sees what stands before it
            behind = np.maximum(np.arange(end) - start, 0)
            own = np.stack([np.full(end, size), behind], -1)[None].astype(np.int32) if size > 1 else None
        else:
            own = columns[:, :end].copy()
            own[..., 0] = np.clip(own[..., 0] - start, 0, size)
            own[..., 1] = np.clip(own[..., 1] - start, 0, None)
        layout = Layout(Mask(size, end, own), rotation(positions, config.attention))
        output, load = run_blocks([block], states[:, start:end], layout, [expert_mask], top_k, [cache])
        outputs.append(output)
        loads.append(None if load[0] is None else load[0].numpy())
        start = end
    return paddle.concat(outputs, 1).astype("float32").numpy(), loads, cache


def compare(block, config, states, chunks, close, **given) -> None:
    native, loads, cache = read(block, config, states, chunks, **given)
    assert cache.weights is not None, "the operator did not run"
    with backend.using("reference"):
        plain, plain_loads, plain_cache = read(block, config, states, chunks, **given)
    assert plain_cache.weights is None
    np.testing.assert_allclose(native, plain, **close)
    np.testing.assert_equal(loads, plain_loads)
    for ours, theirs in ((cache.key, plain_cache.key), (cache.value, plain_cache.value)):
        np.testing.assert_allclose(ours.astype("float32").numpy(), theirs.astype("float32").numpy(), **close)


@pytest.mark.parametrize("chunks", [[9], [1] * 6, [5, 1, 1, 4], [40, 1]], ids=str)
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
    """The second row's first three tokens are pads, which no other token sees; a pad sees itself."""
    length = 8
    columns = np.stack([np.full([2, length], length), np.broadcast_to(np.arange(length), [2, length])], -1)
    columns[1, :3, 0] = np.arange(1, 4)
    block, states = build(CONFIG), paddle.randn([2, length, 40])
    close = {"rtol": PER_STEP, "atol": PER_STEP}
    compare(block, CONFIG, states, [5, 1, 1, 1], close, columns=columns.astype(np.int32))
    other = states.clone()
    other[1, :3] = 7.0
    first, second = (read(block, CONFIG, s, [5, 1, 1, 1], columns=columns.astype(np.int32))[0] for s in (states, other))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1, 3:], second[1, 3:])
    assert (first[1, :3] != second[1, :3]).any()


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
    native, _, cache = read(block, config, states, [5, 1], top_k=top_k)
    assert cache.weights is not None
    with backend.using("reference"):
        plain, _, _ = read(wide, config, states.astype("float32"), [5, 1], top_k=top_k)
    assert np.square(native - plain).mean() < np.square(0.02) * np.square(plain).mean()


def test_the_caches_grow_and_keep_what_they_hold():
    block, states = build(CONFIG), paddle.randn([1, 20, 40])
    _, _, cache = read(block, CONFIG, states, [1] * 20)
    whole = read(block, CONFIG, states, [20])[2]
    assert cache.length == 20 <= cache.buffers[0].shape[1]
    for grown, at_once in ((cache.key, whole.key), (cache.value, whole.value)):
        np.testing.assert_allclose(grown.numpy(), at_once.numpy(), rtol=PER_STEP, atol=PER_STEP)


def test_layers_that_the_operator_does_not_know_run_as_they_are():
    config = replace(CONFIG, attention=replace(CONFIG.attention, use_bias=True))
    states = paddle.randn([1, 3, 40])
    output, _, cache = read(build(config), config, states, [2, 1])
    assert cache.weights is None and output.shape == (1, 3, 40)


def test_gradients_are_the_plain_layers():
    block, states = build(CONFIG), paddle.randn([1, 3, 40])
    with paddle.enable_grad():
        cache = LayerCache()
        positions = paddle.zeros([1, 3, 3])
        layout = Layout(Mask(3, 3, causal=True), rotation(positions, CONFIG.attention))
        run_blocks([block], states, layout, [paddle.zeros([7])], 2, [cache]).hidden_states.sum().backward()
    assert cache.weights is None and block.self_attn.q_proj.weight.grad is not None


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
        caches, found = [LayerCache() for _ in range(5)], []
        for start, size in ((0, 4), (4, 1), (5, 1)):
            states = paddle.to_tensor(np.sin(np.arange(2 * size * 40) + start).reshape([2, size, 40]).astype("float32"))
            layout = Layout(Mask(size, start + size), rotation(paddle.full([1, size, 3], float(start)), DEEP.attention))
            changes = {layer: lambda states, by=layer + 1: states * by for layer in taps if layer in layer_ids}
            output = decoder(states, layout, subnet, caches, changes)
            loads = [output.tokens_per_expert[layer].numpy() for layer in sorted(output.tokens_per_expert)]
            found += [output.hidden_states.numpy(), output.residual.numpy(), np.array(loads)]
            assert list(output.tokens_per_expert) == [layer for layer in layer_ids if layer > 0]
        return found

    native = outputs()
    parts = len({place for place in taps if place in layer_ids} | {layer_ids[-1]})
    assert calls.count("decoder_layers") == 3 * parts
    with backend.using("reference"):
        expected = outputs()
    for ours, theirs in zip(native, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def inputs(batch: int = 1, new: int = 1, past: int = 2, capacity: int = 4) -> dict:
    block = build(CONFIG)
    weights = block.gathered()
    return {
        "X": paddle.randn([batch, new, 40]),
        "Cos": paddle.ones([1, new, 1, 3]),
        "Sin": paddle.zeros([1, new, 1, 3]),
        "Mask": Mask(new, past + new).columns,
        "Past": paddle.to_tensor([past]),
        "Keys": [paddle.randn([batch, capacity, 2, 6])],
        "Values": [paddle.randn([batch, capacity, 2, 6])],
        "Weights": [*weights.attention, *weights.mlp, *weights.experts[:2], paddle.zeros([7]), *weights.experts[2:]],
    }


def call(given: dict, top_k: int = 2) -> list[paddle.Tensor]:
    return backend.call("decoder_layers", list(given.values()), [3], top_k, False, 1.0, 1e-5)


WRONG = {
    "x is flat": ({"X": paddle.zeros([1, 40])}, 2, "x has shape"),
    "another hidden size": ({"X": paddle.zeros([1, 1, 24])}, 2, "input_norm has shape"),
    "another dtype": ({"X": paddle.zeros([1, 1, 40], "float64")}, 2, "key_cache has dtype"),
    "a full cache": ({"Past": paddle.to_tensor([4])}, 2, "room for 4 tokens, not for 1 behind 4"),
    "a mask of other keys": ({"Mask": paddle.zeros([1, 9, 2], "int32")}, 2, "mask has shape"),
    "three columns": ({"Mask": paddle.zeros([1, 3, 3], "int32")}, 2, "mask has 3 columns"),
    "angles of other tokens": ({"Cos": paddle.ones([1, 2, 1, 3])}, 2, "cos has shape"),
    "other caches": ({"Values": [paddle.zeros([1, 5, 2, 6])]}, 2, "value_cache has shape"),
    "too few caches": ({"Values": []}, 2, "1 caches of keys and 0 of values for 1 layers"),
    "too few weights": ({"Weights": [paddle.zeros([40])]}, 2, "1 weights, expected 14"),
    "too many choices": ({}, 8, "top_k is 8 of 7"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_end_in_one_sentence(name):
    changed, top_k, sentence = WRONG[name]
    with pytest.raises(OSError, match=sentence):
        call(inputs() | changed, top_k)


def test_no_tokens_give_no_rows():
    output = call(inputs(new=0, past=3))[0]
    assert output.shape == [1, 0, 40]


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
