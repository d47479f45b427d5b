from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from ernie5.config import rules
from ernie5.config.schema import (
    AttentionConfig,
    Config,
    DataConfig,
    ElasticConfig,
    MemberConfig,
    ModelConfig,
    MoEConfig,
    SourceConfig,
    StageConfig,
)
from ernie5.errors import UserError

DENSE_MOE = MoEConfig(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
ELASTIC = ElasticConfig(
    depth_probability=0.25,
    min_layers=2,
    width_probability=0.2,
    min_experts=4,
    expert_multiple=2,
    sparsity_probability=0.2,
    min_top_k=1,
)
VALID = Config(
    model=ModelConfig(
        name="m",
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=4,
        intermediate_size=64,
        attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        moe=MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    ),
    stages=(StageConfig(name="s", max_seq_len=64, num_tokens=1280, batch_tokens=128, elastic=ELASTIC),),
    data=DataConfig(train=(SourceConfig(name="a", path="a.txt"), SourceConfig(name="b", path="b.txt"))),
    members=(MemberConfig(name="half", num_layers=2, num_experts=4, top_k=1),),
)


def changed(node: Any, key: str, value: Any) -> Any:
    """A copy of a frozen tree with the value at a dotted key replaced."""
    head, _, rest = key.partition(".")
    if isinstance(node, tuple):
        return (*node[: int(head)], changed(node[int(head)], rest, value), *node[int(head) + 1 :])
    return replace(node, **{head: changed(getattr(node, head), rest, value) if rest else value})


def config_with(changes: dict[str, Any]) -> Config:
    config = VALID
    for key, value in changes.items():
        config = changed(config, key, value)
    return config


def numbers(node: Any, prefix: str = "") -> list[str]:
    """Dotted keys of every number of a tree."""
    if isinstance(node, tuple):
        return [key for i, entry in enumerate(node) for key in numbers(entry, f"{prefix}{i}.")]
    if is_dataclass(node):
        return [key for field in fields(node) for key in numbers(getattr(node, field.name), f"{prefix}{field.name}.")]
    return [prefix[:-1]] if type(node) in (int, float) else []


def test_a_fitting_configuration_passes():
    assert rules.violations(VALID) == []


@pytest.mark.parametrize("key", numbers(VALID))
def test_no_number_may_be_negative(key: str):
    assert any(key.rpartition(".")[2] in message for message in rules.violations(config_with({key: -1})))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"model.attention.num_key_value_heads": 3}, "num_attention_heads is 4: must be a multiple"),
        ({"model.attention.head_dim": 7}, "head_dim is 7: must be even"),
        ({"model.attention.head_dim": 4}, "head_dim is 4: must be even and at least 6"),
        ({"model.attention.rope_temporal_fraction": 1.5}, "rope_temporal_fraction is 1.5: must lie between 0 and 1"),
        ({"model.moe.num_experts_per_tok": 9}, "num_experts_per_tok is 9: must not exceed num_experts (8)"),
        ({"model.moe.num_experts_per_tok": 0}, "num_experts_per_tok is 0: must be above 0, as num_experts is 8"),
        ({"model.moe.moe_intermediate_size": 0}, "moe_intermediate_size is 0: must be above 0"),
        ({"model.moe.num_experts": 0}, "num_experts_per_tok is 2, moe_intermediate_size is 16: must be 0"),
        ({"model.moe.num_dense_layers": 5}, "num_dense_layers is 5: must not exceed model.num_hidden_layers (4)"),
        ({"model.moe.num_dense_layers": 1, "model.intermediate_size": 0}, "intermediate_size is 0: set it"),
        ({"model.moe": DENSE_MOE, "model.intermediate_size": 0}, "intermediate_size is 0: set it"),
        ({"model.num_nextn_predict_layers": 2}, "num_nextn_predict_layers is 2: must be 0 or 1"),
        ({"stages.0.batch_tokens": 100}, "stages.0.batch_tokens is 100: must be a multiple of max_seq_len (64)"),
        ({"stages.0.batch_start_tokens": 100, "stages.0.batch_ramp_tokens": 1}, "batch_start_tokens is 100: must be a"),
        ({"stages.0.batch_start_tokens": 192, "stages.0.batch_ramp_tokens": 1}, "must not exceed batch_tokens (128)"),
        ({"stages.0.batch_start_tokens": 64}, "set both for a ramp, or neither"),
        ({"stages.0.batch_ramp_tokens": 64}, "set both for a ramp, or neither"),
        ({"stages.0.micro_batch_rows": 0}, "stages.0.micro_batch_rows is 0: must be above 0"),
        ({"stages.0.min_learning_rate": 1.0}, "min_learning_rate is 1.0: must not exceed learning_rate (0.0001)"),
        ({"stages.0.lr_schedule": "cosine", "stages.0.decay_fraction": 0.1}, "only lr_schedule wsd has one"),
        ({"stages.0.decay_fraction": 1.1}, "decay_fraction is 1.1: must lie between 0 and 1"),
        ({"stages.0.elastic.depth_probability": 1.1}, "stages.0.elastic.depth_probability is 1.1"),
        ({"stages.0.elastic.min_layers": 1}, "min_layers is 1: must lie between keep_first_layers + keep_last_layers"),
        ({"stages.0.elastic.min_layers": 5}, "min_layers is 5: must lie between"),
        ({"stages.0.elastic.min_experts": 1}, "min_experts is 1: must lie between model.moe.num_experts_per_tok (2)"),
        ({"stages.0.elastic.min_experts": 10}, "min_experts is 10: must lie between"),
        ({"stages.0.elastic.min_experts": 5}, "expert_multiple is 2: must divide min_experts (5)"),
        ({"stages.0.elastic.expert_multiple": 3}, "expert_multiple is 3: must divide"),
        ({"stages.0.elastic.min_top_k": 3}, "min_top_k is 3: must not exceed model.moe.num_experts_per_tok (2)"),
        ({"model.moe": DENSE_MOE}, "width_probability and sparsity_probability must be 0"),
        ({"members.0.num_layers": 5}, "members.0.num_layers is 5, the model has 4"),
        ({"members.0.num_experts": 9}, "members.0.num_experts is 9, the model has 8"),
        ({"members.0.top_k": 3}, "members.0.top_k is 3, the model has 2"),
        ({"members.0.num_experts": 1, "members.0.top_k": 0}, "members.0.num_experts is 1: must be at least its top_k"),
        ({"stages": ()}, "a run needs at least one stage"),
        ({"data.train": ()}, "a run needs at least one source"),
        ({"stages": VALID.stages * 2}, "stages names 's' twice"),
        ({"data.train.1.name": "a"}, "data.train names 'a' twice"),
        ({"members": VALID.members * 2}, "members names 'half' twice"),
        ({"data.train.1.weight": 0.0}, "data.train.1.weight is 0.0: must be above 0"),
        ({"data.train.0.path": ""}, "data.train.0.path is empty"),
        ({"data.validation_fraction": 0.0}, "validation_fraction is 0.0: must lie inside 0 and 1"),
        ({"data.validation_fraction": 1.0}, "validation_fraction is 1.0: must lie inside 0 and 1"),
        ({"tokenizer.vocab_size": 301}, "tokenizer.vocab_size is 301: must not exceed model.vocab_size (300)"),
        ({"tokenizer.bpe_dropout": 1.5}, "tokenizer.bpe_dropout is 1.5"),
        ({"optimizer.beta2": 1.0}, "optimizer.beta2 is 1.0: must be at least 0 and below 1"),
        ({"train.keep_checkpoints": 0}, "train.keep_checkpoints is 0: must be above 0"),
        ({"train.output_dir": ""}, "train.output_dir is empty"),
        ({"generation.top_p": 0.0}, "generation.top_p is 0.0: must be above 0 and at most 1"),
        ({"generation.top_p": 1.1}, "generation.top_p is 1.1"),
        ({"generation.max_new_tokens": 0}, "generation.max_new_tokens is 0: must be above 0"),
    ],
)
def test_a_broken_rule_is_told(changes: dict[str, Any], expected: str):
    assert any(expected in message for message in rules.violations(config_with(changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"stages.0.elastic": ElasticConfig(), "model.num_hidden_layers": 1, "members": ()},
        {"stages.0.elastic": replace(ELASTIC, width_probability=0.0, min_experts=3)},
        {"model.moe": DENSE_MOE, "stages.0.elastic": ElasticConfig(), "members": ()},
        {"stages.0.batch_start_tokens": 64, "stages.0.batch_ramp_tokens": 640},
        {"stages.0.batch_start_tokens": 128, "stages.0.batch_ramp_tokens": 640},
        {"generation.temperature": 0.0, "generation.top_p": 1.0, "optimizer.clip_norm": 0.0},
        {"tokenizer.vocab_size": 300, "data.num_workers": 0, "model.num_nextn_predict_layers": 0},
        {"members": (MemberConfig(name="all"),)},
    ],
)
def test_a_limit_itself_is_allowed(changes: dict[str, Any]):
    assert rules.violations(config_with(changes)) == []


def test_all_violations_are_listed_by_number_in_one_error():
    broken = config_with({"model.vocab_size": 0, "stages.0.batch_tokens": 100, "generation.top_p": 0.0})
    with pytest.raises(UserError) as caught:
        rules.check(broken, "run.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "run.yaml: 3 settings are out of range or do not fit together:"
    assert [line.split()[0] for line in lines[1:]] == ["1.", "2.", "3."]


def test_a_single_violation_is_one_line():
    with pytest.raises(UserError, match=r"^run.yaml: stages is empty: a run needs at least one stage$"):
        rules.check(config_with({"stages": ()}), "run.yaml")


def test_a_bare_model_is_checked():
    with pytest.raises(UserError, match="model.hidden_size is 0"):
        rules.check_model(replace(VALID.model, hidden_size=0))
