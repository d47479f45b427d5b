"""What the types cannot say: each rule returns what is wrong and what to do, or None. Nothing is repaired."""

from collections.abc import Iterable, Iterator

from ernie5.config.audio_rules import (
    AUDIO_ELASTIC_RULES,
    AUDIO_MEMBER_RULES,
    AUDIO_MODEL_RULES,
    AUDIO_RUN_RULES,
    AUDIO_STAGE_RULES,
)
from ernie5.config.parallel_rules import PARALLEL_RUN_RULES
from ernie5.config.ranges import joined, negative, not_a_share, not_positive, outside, prefixed
from ernie5.config.schema import Config, ElasticConfig, MemberConfig, ModelConfig, StageConfig
from ernie5.config.vision_rules import VISION_MODEL_RULES, VISION_RUN_RULES, VISION_STAGE_RULES
from ernie5.errors import UserError


def check(config: Config, source: str = "the configuration") -> None:
    """Raises one UserError that lists every broken rule of a run; `source` is where the configuration came from."""
    _raise_all(source, violations(config))


def check_model(model: ModelConfig, source: str = "the configuration") -> None:
    """As `check`, for a bare model."""
    _raise_all(source, model_violations(model))


def model_violations(model: ModelConfig) -> list[str]:
    """Every broken rule of a model alone."""
    return [message for rule in MODEL_RULES if (message := rule(model))]


def violations(config: Config) -> list[str]:
    """Every broken rule of a run, the model's first."""
    found = model_violations(config.model)
    for i, stage in enumerate(config.stages):
        found += [f"stages.{i}.{message}" for rule in STAGE_RULES if (message := rule(stage))]
        found += [f"stages.{i}.elastic.{message}" for rule in ELASTIC_RULES if (message := rule(stage.elastic, config))]
    for i, member in enumerate(config.members):
        found += [f"members.{i}.{message}" for rule in MEMBER_RULES if (message := rule(member, config.model))]
    return found + [message for rule in RUN_RULES if (message := rule(config))]


def _raise_all(source: str, found: list[str]) -> None:
    if len(found) == 1:
        raise UserError(f"{source}: {found[0]}")
    if found:
        listed = "".join(f"\n  {i}. {message}" for i, message in enumerate(found, 1))
        raise UserError(f"{source}: {len(found)} settings are out of range or do not fit together:{listed}")


# The model alone.


def model_sizes_are_positive(model: ModelConfig) -> str | None:
    message = not_positive(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        rms_norm_eps=model.rms_norm_eps,
        initializer_range=model.initializer_range,
    )
    return prefixed("model", [message, negative(intermediate_size=model.intermediate_size)])


def attention_sizes_are_positive(model: ModelConfig) -> str | None:
    attention = model.attention
    message = not_positive(
        num_attention_heads=attention.num_attention_heads,
        num_key_value_heads=attention.num_key_value_heads,
        head_dim=attention.head_dim,
        rope_theta=attention.rope_theta,
    )
    share = not_a_share(rope_temporal_fraction=attention.rope_temporal_fraction)
    return prefixed("model.attention", [message, share])


def heads_share_key_value_heads_evenly(model: ModelConfig) -> str | None:
    heads, kv_heads = model.attention.num_attention_heads, model.attention.num_key_value_heads
    if kv_heads > 0 and heads % kv_heads:
        return f"model.attention.num_attention_heads is {heads}: must be a multiple of num_key_value_heads ({kv_heads})"
    return None


def head_dim_turns_with_every_axis(model: ModelConfig) -> str | None:
    """Uni-RoPE needs a frequency pair for each of t, h and w."""
    head_dim = model.attention.head_dim
    if 0 < head_dim < 6 or head_dim % 2:
        return f"model.attention.head_dim is {head_dim}: must be even and at least 6, a pair for each of t, h and w"
    return None


def moe_sizes_are_in_range(model: ModelConfig) -> str | None:
    moe = model.moe
    message = negative(
        num_experts=moe.num_experts,
        num_experts_per_tok=moe.num_experts_per_tok,
        moe_intermediate_size=moe.moe_intermediate_size,
        num_shared_experts=moe.num_shared_experts,
        num_dense_layers=moe.num_dense_layers,
    )
    return prefixed("model.moe", [message, not_positive(routed_scaling_factor=moe.routed_scaling_factor)])


def experts_come_with_their_settings(model: ModelConfig) -> str | None:
    moe = model.moe
    if moe.num_experts > 0:
        message = not_positive(
            num_experts_per_tok=moe.num_experts_per_tok, moe_intermediate_size=moe.moe_intermediate_size
        )
        return f"{prefixed('model.moe', [message])}, as num_experts is {moe.num_experts}" if message else None
    settings = ("num_experts_per_tok", "moe_intermediate_size", "num_shared_experts")
    left = [f"{name} is {value}" for name in settings if (value := getattr(moe, name))]
    return f"model.moe.{', '.join(left)}: must be 0, as num_experts is 0 and so every layer is dense" if left else None


def top_k_fits_the_experts(model: ModelConfig) -> str | None:
    top_k, experts = model.moe.num_experts_per_tok, model.moe.num_experts
    if 0 < experts < top_k:
        return f"model.moe.num_experts_per_tok is {top_k}: must not exceed num_experts ({experts})"
    return None


def dense_layers_fit_the_depth(model: ModelConfig) -> str | None:
    dense, layers = model.moe.num_dense_layers, model.num_hidden_layers
    if dense > layers:
        return f"model.moe.num_dense_layers is {dense}: must not exceed model.num_hidden_layers ({layers})"
    return None


def dense_layers_have_a_width(model: ModelConfig) -> str | None:
    if (model.moe.num_dense_layers > 0 or model.moe.num_experts == 0) and model.intermediate_size == 0:
        return "model.intermediate_size is 0: set it, as the model has dense layers"
    return None


def one_prediction_block_at_most(model: ModelConfig) -> str | None:
    if model.num_nextn_predict_layers not in (0, 1):
        return f"model.num_nextn_predict_layers is {model.num_nextn_predict_layers}: must be 0 or 1"
    return None


# One stage.


def stage_sizes_are_in_range(stage: StageConfig) -> str | None:
    positive = not_positive(
        max_seq_len=stage.max_seq_len,
        num_tokens=stage.num_tokens,
        batch_tokens=stage.batch_tokens,
        micro_batch_rows=stage.micro_batch_rows,
        learning_rate=stage.learning_rate,
    )
    not_negative = negative(
        batch_start_tokens=stage.batch_start_tokens,
        batch_ramp_tokens=stage.batch_ramp_tokens,
        min_learning_rate=stage.min_learning_rate,
        warmup_steps=stage.warmup_steps,
        expert_bias_speed=stage.expert_bias_speed,
        mtp_loss_weight=stage.mtp_loss_weight,
    )
    return joined(positive, not_negative, not_a_share(decay_fraction=stage.decay_fraction))


def batch_is_whole_rows(stage: StageConfig) -> str | None:
    row = stage.max_seq_len
    if row > 0 and stage.batch_tokens % row:
        return f"batch_tokens is {stage.batch_tokens}: must be a multiple of max_seq_len ({row})"
    if row > 0 and stage.batch_start_tokens % row:
        return f"batch_start_tokens is {stage.batch_start_tokens}: must be a multiple of max_seq_len ({row})"
    return None


def batch_ramp_goes_up(stage: StageConfig) -> str | None:
    start, ramp = stage.batch_start_tokens, stage.batch_ramp_tokens
    if start > stage.batch_tokens:
        return f"batch_start_tokens is {start}: must not exceed batch_tokens ({stage.batch_tokens})"
    if (start > 0) != (ramp > 0):
        return f"batch_start_tokens is {start} and batch_ramp_tokens {ramp}: set both for a ramp, or neither"
    return None


def learning_rate_goes_down(stage: StageConfig) -> str | None:
    if stage.min_learning_rate > stage.learning_rate:
        return f"min_learning_rate is {stage.min_learning_rate}: must not exceed learning_rate ({stage.learning_rate})"
    return None


def only_wsd_has_a_decay_fraction(stage: StageConfig) -> str | None:
    if stage.lr_schedule != "wsd" and stage.decay_fraction > 0:
        return f"decay_fraction is {stage.decay_fraction}: only lr_schedule wsd has one, so set it to 0"
    return None


# The draws of a stage, against the model. A range matters once its probability is above 0.


def draw_probabilities_are_shares(elastic: ElasticConfig, config: Config) -> str | None:
    return not_a_share(
        depth_probability=elastic.depth_probability,
        width_probability=elastic.width_probability,
        sparsity_probability=elastic.sparsity_probability,
    )


def draw_sizes_are_in_range(elastic: ElasticConfig, config: Config) -> str | None:
    positive = not_positive(
        min_layers=elastic.min_layers,
        min_experts=elastic.min_experts,
        layer_groups=elastic.layer_groups,
        expert_multiple=elastic.expert_multiple,
        min_top_k=elastic.min_top_k,
    )
    kept = negative(keep_first_layers=elastic.keep_first_layers, keep_last_layers=elastic.keep_last_layers)
    return joined(positive, kept)


def drawn_depth_fits_the_model(elastic: ElasticConfig, config: Config) -> str | None:
    kept = elastic.keep_first_layers + elastic.keep_last_layers
    layers = config.model.num_hidden_layers
    if elastic.depth_probability > 0 and not kept <= elastic.min_layers <= layers:
        return (
            f"min_layers is {elastic.min_layers}: must lie between keep_first_layers + keep_last_layers ({kept}) "
            f"and model.num_hidden_layers ({layers})"
        )
    return None


def drawn_experts_fit_the_model(elastic: ElasticConfig, config: Config) -> str | None:
    """Width and sparsity draw independently, so a drawn subset must hold as many experts as the full top-k."""
    moe = config.model.moe
    if elastic.width_probability > 0 and not moe.num_experts_per_tok <= elastic.min_experts <= moe.num_experts:
        return (
            f"min_experts is {elastic.min_experts}: must lie between model.moe.num_experts_per_tok "
            f"({moe.num_experts_per_tok}) and model.moe.num_experts ({moe.num_experts})"
        )
    return None


def drawn_experts_are_multiples(elastic: ElasticConfig, config: Config) -> str | None:
    multiple, experts = elastic.expert_multiple, config.model.moe.num_experts
    if elastic.width_probability > 0 and multiple > 0 and (elastic.min_experts % multiple or experts % multiple):
        return (
            f"expert_multiple is {multiple}: must divide min_experts ({elastic.min_experts}) "
            f"and model.moe.num_experts ({experts})"
        )
    return None


def drawn_top_k_fits_the_model(elastic: ElasticConfig, config: Config) -> str | None:
    top_k = config.model.moe.num_experts_per_tok
    if elastic.sparsity_probability > 0 and elastic.min_top_k > top_k:
        return f"min_top_k is {elastic.min_top_k}: must not exceed model.moe.num_experts_per_tok ({top_k})"
    return None


def dense_models_draw_depth_alone(elastic: ElasticConfig, config: Config) -> str | None:
    if config.model.moe.num_experts == 0 and elastic.width_probability + elastic.sparsity_probability > 0:
        return "width_probability and sparsity_probability must be 0, as model.moe.num_experts is 0"
    return None


# Named members, against the model.


def check_member(member: MemberConfig, model: ModelConfig) -> None:
    """Raises UserError for a member that the model does not have."""
    for message in (rule(member, model) for rule in MEMBER_RULES):
        if message:
            raise UserError(f"the sub-network {message}")


def member_fits_the_model(member: MemberConfig, model: ModelConfig) -> str | None:
    """Each size is 0, for the full model's, or between 1 and the full model's."""
    limits = {
        "num_layers": (member.num_layers, model.num_hidden_layers),
        "num_experts": (member.num_experts, model.moe.num_experts),
        "top_k": (member.top_k, model.moe.num_experts_per_tok),
    }
    bad = [f"{name} is {size}, the model has {full}" for name, (size, full) in limits.items() if not 0 <= size <= full]
    return f"{'; '.join(bad)}: must lie between 0 (as in the model) and the model's" if bad else None


def member_has_experts_for_its_top_k(member: MemberConfig, model: ModelConfig) -> str | None:
    experts, top_k = member.num_experts or model.moe.num_experts, member.top_k or model.moe.num_experts_per_tok
    if experts < top_k <= model.moe.num_experts:
        return f"num_experts is {experts}: must be at least its top_k ({top_k})"
    return None


# The run as a whole.


def there_is_a_stage(config: Config) -> str | None:
    return None if config.stages else "stages is empty: a run needs at least one stage"


def there_is_a_source(config: Config) -> str | None:
    return None if config.data.train else "data.train is empty: a run needs at least one source"


def names_are_unique(config: Config) -> str | None:
    lists = {
        "stages": config.stages,
        "data.train": config.data.train,
        "data.validation": config.data.validation,
        "members": config.members,
    }
    found = [
        f"{where} names {', '.join(_repeated(entries))} twice" for where, entries in lists.items() if _repeated(entries)
    ]
    return f"{'; '.join(found)}: give each entry a name of its own" if found else None


def _repeated(entries: Iterable) -> list[str]:
    names = [entry.name for entry in entries]
    return sorted({repr(name) for name in names if names.count(name) > 1})


def sources_have_a_path_and_a_weight(config: Config) -> str | None:
    return "; ".join(_source_faults(config)) or None


def _source_faults(config: Config) -> Iterator[str]:
    for where, sources in (("data.train", config.data.train), ("data.validation", config.data.validation)):
        for i, source in enumerate(sources):
            if not source.path:
                yield f"{where}.{i}.path is empty: name a file, a folder, a glob or pydoc"
            if source.weight <= 0:
                yield f"{where}.{i}.weight is {source.weight}: must be above 0"


def data_settings_are_in_range(config: Config) -> str | None:
    data = config.data
    fraction = outside(
        {"validation_fraction": data.validation_fraction}, lambda value: 0 < value < 1, "must lie inside 0 and 1"
    )
    workers = negative(num_workers=data.num_workers)
    return prefixed("data", [fraction, workers, not_positive(prefetch_batches=data.prefetch_batches)])


def tokenizer_fits_the_model(config: Config) -> str | None:
    size, rows = config.tokenizer.vocab_size, config.model.vocab_size
    if size > rows:
        return f"tokenizer.vocab_size is {size}: must not exceed model.vocab_size ({rows})"
    return None


def tokenizer_settings_are_in_range(config: Config) -> str | None:
    tokenizer = config.tokenizer
    size = negative(vocab_size=tokenizer.vocab_size)
    text = not_positive(max_train_bytes=tokenizer.max_train_bytes)
    return prefixed("tokenizer", [size, text, not_a_share(bpe_dropout=tokenizer.bpe_dropout)])


def optimizer_settings_are_in_range(config: Config) -> str | None:
    optimizer = config.optimizer
    betas = {"beta1": optimizer.beta1, "beta2": optimizer.beta2}
    beta = outside(betas, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
    others = negative(
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        router_lr_scale=optimizer.router_lr_scale,
    )
    return prefixed("optimizer", [beta, others, not_positive(epsilon=optimizer.epsilon)])


def train_settings_are_in_range(config: Config) -> str | None:
    train = config.train
    counts = negative(
        seed=train.seed,
        max_steps=train.max_steps,
        log_steps=train.log_steps,
        eval_steps=train.eval_steps,
        sample_steps=train.sample_steps,
        save_steps=train.save_steps,
        threads=train.threads,
    )
    kept = not_positive(keep_checkpoints=train.keep_checkpoints, max_eval_tokens=train.max_eval_tokens)
    folder = None if train.output_dir else "output_dir is empty: name the folder of the run"
    return prefixed("train", [counts, kept, folder])


def generation_settings_are_in_range(config: Config) -> str | None:
    generation = config.generation
    top_p = outside({"top_p": generation.top_p}, lambda value: 0 < value <= 1, "must be above 0 and at most 1")
    others = negative(temperature=generation.temperature, top_k=generation.top_k)
    return prefixed("generation", [top_p, others, not_positive(max_new_tokens=generation.max_new_tokens)])


def services_settings_are_in_range(config: Config) -> str | None:
    services = config.services
    counts = negative(num_workers=services.num_workers, gpus_per_worker=services.gpus_per_worker)
    return prefixed("services", [counts, not_positive(ahead=services.ahead)])


def services_have_something_to_encode(config: Config) -> str | None:
    workers = config.services.num_workers
    if workers > 0 and config.model.vision is None and config.model.audio is None:
        return f"services.num_workers is {workers}, but the model takes neither pictures nor sounds: set it to 0"
    return None


MODEL_RULES = (
    model_sizes_are_positive,
    attention_sizes_are_positive,
    heads_share_key_value_heads_evenly,
    head_dim_turns_with_every_axis,
    moe_sizes_are_in_range,
    experts_come_with_their_settings,
    top_k_fits_the_experts,
    dense_layers_fit_the_depth,
    dense_layers_have_a_width,
    one_prediction_block_at_most,
    *VISION_MODEL_RULES,
    *AUDIO_MODEL_RULES,
)
STAGE_RULES = (
    stage_sizes_are_in_range,
    batch_is_whole_rows,
    batch_ramp_goes_up,
    learning_rate_goes_down,
    only_wsd_has_a_decay_fraction,
    *VISION_STAGE_RULES,
    *AUDIO_STAGE_RULES,
)
ELASTIC_RULES = (
    draw_probabilities_are_shares,
    draw_sizes_are_in_range,
    drawn_depth_fits_the_model,
    drawn_experts_fit_the_model,
    drawn_experts_are_multiples,
    drawn_top_k_fits_the_model,
    dense_models_draw_depth_alone,
    *AUDIO_ELASTIC_RULES,
)
MEMBER_RULES = (member_fits_the_model, member_has_experts_for_its_top_k, *AUDIO_MEMBER_RULES)


RUN_RULES = (
    there_is_a_stage,
    there_is_a_source,
    names_are_unique,
    sources_have_a_path_and_a_weight,
    data_settings_are_in_range,
    tokenizer_fits_the_model,
    tokenizer_settings_are_in_range,
    optimizer_settings_are_in_range,
    train_settings_are_in_range,
    generation_settings_are_in_range,
    services_settings_are_in_range,
    services_have_something_to_encode,
    *VISION_RUN_RULES,
    *AUDIO_RUN_RULES,
    *PARALLEL_RUN_RULES,
)
