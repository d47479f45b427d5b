"""Small models, stages and clusters that the planner's tests count by hand."""

from dataclasses import replace

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig, StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster
from ernie5.planning.layout import Layout

MODEL = ModelConfig(
    name="small",
    vocab_size=96,
    hidden_size=24,
    num_hidden_layers=8,
    intermediate_size=40,
    num_nextn_predict_layers=1,
    attention=AttentionConfig(num_attention_heads=8, num_key_value_heads=4, head_dim=8),
    moe=MoEConfig(
        num_experts=16, num_experts_per_tok=3, moe_intermediate_size=20, num_shared_experts=1, num_dense_layers=1
    ),
)
VARIANTS = {
    "mixed": MODEL,
    "untied": replace(MODEL, tie_word_embeddings=False),
    "biases": replace(MODEL, attention=replace(MODEL.attention, use_bias=True)),
    "without_block": replace(MODEL, num_nextn_predict_layers=0),
    "unshared": replace(MODEL, moe=replace(MODEL.moe, num_shared_experts=0)),
    "all_sparse": replace(MODEL, moe=replace(MODEL.moe, num_dense_layers=0, num_shared_experts=0)),
    "dense": replace(MODEL, moe=MoEConfig(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)),
}
STAGE = StageConfig(name="stage", max_seq_len=64, num_tokens=64 * 48 * 10, batch_tokens=64 * 48)
CLUSTER = Cluster(
    name="cluster",
    gpus=16,
    gpus_per_node=8,
    memory_gib=80,
    bf16_tflops=1000,
    fp8_tflops=2000,
    memory_gb_per_s=3000,
    intra_gb_per_s=200,
    intra_latency_us=5,
    inter_gb_per_s=50,
    inter_latency_us=15,
)


def case(model: ModelConfig = MODEL, stage: StageConfig = STAGE, policy: Policy | None = None, **degrees: int) -> Case:
    """A case whose layout has these degrees."""
    return Case(model, stage, Layout(**degrees), policy or Policy())
