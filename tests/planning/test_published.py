"""The predictions beside published figures that docs/benchmarks quotes: a change of the assumptions must not pass
unseen."""

from dataclasses import replace
from pathlib import Path

import pytest

from ernie5.config.load import load_model_config
from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import load_cluster
from ernie5.planning.layout import parse_layout
from ernie5.planning.parameters import count_parameters
from ernie5.planning.time import StepTime, step_time

ROOT = Path(__file__).parents[2]
FULL = load_model_config(ROOT / "configs/model/full_2p4t.yaml")
ERNIE_45 = replace(
    FULL,
    num_hidden_layers=54,
    intermediate_size=28672,
    moe=replace(FULL.moe, num_experts=64, num_dense_layers=3),
)
# Grouped queries with as many weights as DeepSeek-V3's latent attention.
DEEPSEEK = replace(
    FULL,
    vocab_size=129_280,
    hidden_size=7168,
    num_hidden_layers=61,
    intermediate_size=18_432,
    attention=replace(FULL.attention, num_attention_heads=96, num_key_value_heads=6),
    moe=replace(FULL.moe, num_experts=256, moe_intermediate_size=2048, num_shared_experts=1, num_dense_layers=3),
)


def predict(model: ModelConfig, gpus: int, layout: str, rows: int, policy: Policy) -> StepTime:
    cluster = load_cluster(str(ROOT / "configs/cluster/h800_4096.yaml"), (f"cluster.gpus={gpus}",))
    stage = StageConfig(name="4k", max_seq_len=4096, num_tokens=10**12, batch_tokens=rows * 4096)
    return step_time(Case(model, stage, parse_layout(layout, cluster), policy), cluster)


def test_the_stand_ins_have_the_published_sizes():
    assert count_parameters(ERNIE_45).backbone == pytest.approx(300e9, rel=5e-3)
    assert count_parameters(ERNIE_45).active == pytest.approx(47e9, rel=5e-3)
    assert count_parameters(DEEPSEEK).backbone == pytest.approx(671e9, rel=5e-3)
    assert count_parameters(DEEPSEEK).active == pytest.approx(37e9, rel=2e-2)


def test_ernie_45_is_predicted_within_a_tenth_of_its_47_percent():
    step = predict(ERNIE_45, 2016, "pipeline=12,expert=8", 15_120, Policy(precision="float8"))
    assert step.mfu == pytest.approx(0.47, rel=0.1)


def test_deepseek_v3_lies_between_no_and_full_overlap():
    published = 180e3 * 3600 / 2048 * 15_360 * 4096 / 1e12  # seconds a step: 180K GPU hours for 10^12 tokens
    none, full = (
        predict(
            DEEPSEEK,
            2048,
            "pipeline=16,expert=64",
            15_360,
            Policy(precision="float8", dispatch="node", expert_overlap=overlap),
        ).total
        for overlap in (0.0, 1.0)
    )
    assert full < published < none
    assert full > 0.7 * published
