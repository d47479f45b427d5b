from dataclasses import replace

import pytest

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.planning.parameters import count_parameters, flops_per_token

# Every size is a different prime, so that a mixed-up factor shows in the count.
VOCAB, HIDDEN, LAYERS, DENSE, EXPERTS, TOP_K, SHARED, FFN, DENSE_FFN = 101, 13, 5, 2, 7, 3, 2, 11, 17
HEADS, KV_HEADS, HEAD_DIM = 6, 3, 8
MODEL = ModelConfig(
    name="primes",
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    num_hidden_layers=LAYERS,
    intermediate_size=DENSE_FFN,
    num_nextn_predict_layers=1,
    attention=AttentionConfig(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM),
    moe=MoEConfig(
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        moe_intermediate_size=FFN,
        num_shared_experts=SHARED,
        num_dense_layers=DENSE,
    ),
)
Shape = tuple[int, ...]


def layer_shapes(model: ModelConfig, dense: bool) -> dict[str, Shape]:
    """Every parameter tensor of one decoder layer, listed by hand."""
    attention, moe, hidden = model.attention, model.moe, model.hidden_size
    q, kv = attention.num_attention_heads * attention.head_dim, attention.num_key_value_heads * attention.head_dim
    shapes: dict[str, Shape] = {"norm.1": (hidden,), "norm.2": (hidden,)}
    shapes |= {"attention.q": (hidden, q), "attention.k": (hidden, kv), "attention.v": (hidden, kv)}
    shapes |= {"attention.o": (q, hidden)}
    if attention.use_bias:
        shapes |= {"attention.qb": (q,), "attention.kb": (kv,), "attention.vb": (kv,), "attention.ob": (hidden,)}
    if dense:
        return shapes | {f"dense.{i}": (hidden, model.intermediate_size) for i in range(3)}
    shapes["router"] = (hidden, moe.num_experts)
    for expert in range(moe.num_experts):
        shapes |= {f"routed.{expert}.{i}": (hidden, moe.moe_intermediate_size) for i in range(3)}
    width = moe.num_shared_experts * moe.moe_intermediate_size
    return shapes | {f"shared.{i}": (hidden, width) for i in range(3)}


def model_shapes(model: ModelConfig) -> dict[str, Shape]:
    hidden = model.hidden_size
    shapes: dict[str, Shape] = {"embedding": (model.vocab_size, hidden), "norm": (hidden,)}
    if not model.tie_word_embeddings:
        shapes["head"] = (hidden, model.vocab_size)
    dense = [i < model.moe.num_dense_layers or model.moe.num_experts == 0 for i in range(model.num_hidden_layers)]
    for i, is_dense in enumerate(dense):
        shapes |= {f"{name}@{i}": shape for name, shape in layer_shapes(model, is_dense).items()}
    if model.num_nextn_predict_layers:
        block = layer_shapes(model, model.moe.num_experts == 0) | {"e": (hidden,), "h": (hidden,), "out": (hidden,)}
        block["projection"] = (2 * hidden, hidden)
        shapes |= {f"mtp.{name}": shape for name, shape in block.items()}
    return shapes


def size(shapes: dict[str, Shape], prefix: str) -> int:
    total = 0
    for name, shape in shapes.items():
        if name.startswith(prefix):
            numbers = 1
            for length in shape:
                numbers *= length
            total += numbers
    return total


VARIANTS = {
    "mixed": MODEL,
    "untied": replace(MODEL, tie_word_embeddings=False),
    "biases": replace(MODEL, attention=replace(MODEL.attention, use_bias=True)),
    "without_mtp": replace(MODEL, num_nextn_predict_layers=0),
    "all_sparse": replace(MODEL, moe=replace(MODEL.moe, num_dense_layers=0, num_shared_experts=0)),
    "dense": replace(MODEL, moe=MoEConfig(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)),
    "dense_layers_to_the_end": replace(MODEL, moe=replace(MODEL.moe, num_dense_layers=LAYERS)),
}


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_every_part_equals_the_sum_over_listed_tensors(model: ModelConfig):
    shapes, count = model_shapes(model), count_parameters(model)
    parts = {
        "embedding": count.embedding,
        "head": count.lm_head,
        "attention": count.attention,
        "router": count.router,
        "routed": count.routed_experts,
        "shared": count.shared_experts,
        "dense": count.dense_mlp,
        "norm": count.norms,
        "mtp": count.mtp,
    }
    assert parts == {part: size(shapes, part) for part in parts}
    assert count.total == size(shapes, "")
    assert count.backbone == size(shapes, "") - size(shapes, "mtp")


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_active_is_the_backbone_that_one_token_visits(model: ModelConfig):
    shapes = {name: shape for name, shape in model_shapes(model).items() if not name.startswith("mtp")}
    chosen = tuple(f"routed.{expert}." for expert in range(TOP_K))
    visited = {
        name: shape for name, shape in shapes.items() if not name.startswith("routed") or name.startswith(chosen)
    }
    if not model.tie_word_embeddings:
        visited["embedding"] = (1, HIDDEN)
    count = count_parameters(model)
    assert count.active == size(visited, "")
    assert count.active_excluding_embeddings == size(visited, "") - size(visited, "embedding") - size(visited, "head")
    assert count.share == count.active / (size(shapes, ""))


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_flops_are_two_per_visited_matrix_weight_and_half_the_square_of_attention(model: ModelConfig):
    seq_len = 64
    chosen = tuple(f"routed.{expert}." for expert in range(TOP_K))
    weights = HIDDEN * VOCAB  # the head, tied or not
    for name, shape in model_shapes(model).items():
        skipped = name.startswith(("mtp", "embedding", "head")) or len(shape) < 2
        if not skipped and (not name.startswith("routed") or name.startswith(chosen)):
            weights += shape[0] * shape[1]
    products = 2 * HEADS * HEAD_DIM * 2 * (seq_len / 2) * LAYERS  # scores and weighted values, half the row on average
    assert flops_per_token(model, seq_len) == 2 * weights + products
