"""Rules of `parallel:`: what a model cannot take. Whether degrees fit the processes shows when these have met
(`parallel.mesh.make_mesh`)."""

from dataclasses import asdict

from ernie5.config.ranges import not_positive
from ernie5.config.schema import Config


def degrees_are_positive(config: Config) -> str | None:
    message = not_positive(**{name: value for name, value in asdict(config.parallel).items() if name != "dispatcher"})
    return f"parallel.{message}" if message else None


def experts_can_be_spread(config: Config) -> str | None:
    degree, experts, tensor = config.parallel.expert, config.model.moe.num_experts, config.parallel.tensor
    if degree > 1 and (experts == 0 or experts % degree):
        return f"parallel.expert is {degree}, which does not divide the model's {experts} experts: set it to a divisor"
    if degree > 1 and degree % tensor:
        return (
            f"parallel.expert is {degree} and parallel.tensor {tensor}: experts lie on whole tensor groups, so set the "
            f"first to a multiple of {tensor}, or to 1"
        )
    return None


def matrices_can_be_cut(config: Config) -> str | None:
    """Attention by heads, feed-forward layers by their width, the head by its vocabulary."""
    model, degree = config.model, config.parallel.tensor
    moe = model.moe
    sizes = {
        "model.attention.num_attention_heads": model.attention.num_attention_heads,
        "model.attention.num_key_value_heads": model.attention.num_key_value_heads,
        "model.vocab_size": model.vocab_size,
    }
    if moe.num_experts == 0 or moe.num_dense_layers:
        sizes["model.intermediate_size"] = model.intermediate_size
    if moe.num_experts and moe.num_shared_experts:
        sizes["model.moe.moe_intermediate_size"] = moe.moe_intermediate_size * moe.num_shared_experts
    for name, size in sizes.items():
        if size % degree:
            fitting = [one for one in range(1, size + 1) if all(other % one == 0 for other in sizes.values())]
            return (
                f"parallel.tensor is {degree}, which does not divide {name}, {size}: set it to one of "
                f"{', '.join(map(str, fitting))}"
            )
    return None


def rows_can_be_shared(config: Config) -> str | None:
    context, tensor = config.parallel.context, config.parallel.tensor
    parts = (2 * context if context > 1 else 1) * tensor
    for i, stage in enumerate(config.stages):
        if stage.max_seq_len % parts:
            return (
                f"stages.{i}.max_seq_len is {stage.max_seq_len}, but under parallel.context {context} and "
                f"parallel.tensor {tensor} a row is cut into {parts} equal parts: set it to a multiple of {parts}"
            )
    return None


def layers_can_be_cut(config: Config) -> str | None:
    """Each piece has a layer; the last may have the heads alone, but has all layers that predict codes of audio."""
    model, stages, virtual = config.model, config.parallel.pipeline, config.parallel.virtual_stages
    if virtual > 1 and stages < 3:
        return (
            f"parallel.virtual_stages is {virtual}, but stages are interleaved from three on and parallel.pipeline is "
            f"{stages}: set the first to 1, or the second to 3 or more"
        )
    behind = model.audio.num_codebooks if model.audio is not None else 0
    most = model.num_hidden_layers - behind + 1
    if stages * virtual > max(most, 1):
        return (
            f"parallel: pipeline {stages} x virtual_stages {virtual} asks for {stages * virtual} pieces, but the "
            f"{model.num_hidden_layers} layers of the model make at most {most}: lower one of them"
        )
    return None


def gradients_are_measured_on_one_process(config: Config) -> str | None:
    """The first process alone would go through layers that are all over."""
    parallel = config.parallel
    shared = max(parallel.tensor, parallel.pipeline, parallel.expert, parallel.context) > 1
    for i, stage in enumerate(config.stages):
        if shared and stage.balance.measure_steps:
            return (
                f"stages.{i}.balance.measure_steps is {stage.balance.measure_steps}, but gradients of one modality "
                "cannot be measured where processes share the model: set it to 0"
            )
    return None


PARALLEL_RUN_RULES = (
    degrees_are_positive,
    experts_can_be_spread,
    matrices_can_be_cut,
    rows_can_be_shared,
    layers_can_be_cut,
    gradients_are_measured_on_one_process,
)


def uneven_draws(config: Config) -> list[str]:
    """What makes processes wait for others, though it is right: sub-networks that leave more of one than of another."""
    stages, experts = config.parallel.pipeline, config.parallel.expert
    found = []
    for i, stage in enumerate(config.stages):
        elastic = stage.elastic
        if elastic.depth_probability and elastic.layer_groups % stages:
            found.append(
                f"stages.{i}.elastic.layer_groups is {elastic.layer_groups}: with {stages}, parallel.pipeline, layers "
                "would be skipped in all stages alike, and none would wait"
            )
        if elastic.width_probability and elastic.expert_multiple % experts:
            found.append(
                f"stages.{i}.elastic.expert_multiple is {elastic.expert_multiple}: with {experts}, parallel.expert, "
                "every process would keep as many experts, and none would wait"
            )
    return found
