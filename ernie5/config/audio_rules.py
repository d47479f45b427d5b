"""The rules of the audio sections, as in `rules.py`."""

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, outside, prefixed
from ernie5.config.schema import Config, ElasticConfig, MemberConfig, ModelConfig, StageConfig

FRAMES_IN_TWO_SECONDS = 25  # of codes (report §2.3: 12.5 a second)


def audio_sizes_are_positive(model: ModelConfig) -> str | None:
    audio = model.audio
    if audio is None:
        return None
    positive = not_positive(
        sample_rate=audio.sample_rate,
        num_codebooks=audio.num_codebooks,
        codebook_size=audio.codebook_size,
        max_seconds=audio.max_seconds,
    )
    return prefixed("model.audio", [positive, negative(speaker_dim=audio.speaker_dim)])


def audio_frames_are_whole_samples(model: ModelConfig) -> str | None:
    if model.audio is not None and model.audio.sample_rate % FRAMES_IN_TWO_SECONDS:
        return f"model.audio.sample_rate is {model.audio.sample_rate}: must be a multiple of {FRAMES_IN_TWO_SECONDS}"
    return None


def audio_levels_have_layers(model: ModelConfig) -> str | None:
    """Level q is read behind layer num_hidden_layers - num_codebooks + q + 1."""
    if model.audio is not None and model.audio.num_codebooks > model.num_hidden_layers:
        return (
            f"model.audio.num_codebooks is {model.audio.num_codebooks}: must not exceed model.num_hidden_layers "
            f"({model.num_hidden_layers}), each level is read behind a layer of its own"
        )
    return None


def audio_stage_is_in_range(stage: StageConfig) -> str | None:
    decay = outside({"decay": stage.balance.decay}, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
    power = outside({"power": stage.balance.power}, lambda value: 0 < value <= 1, "must be above 0 and at most 1")
    return joined(
        prefixed("audio", [negative(loss_weight=stage.audio.loss_weight)]),
        prefixed("balance", [decay, power, negative(measure_steps=stage.balance.measure_steps)]),
    )


def audio_layers_are_kept(elastic: ElasticConfig, config: Config) -> str | None:
    """The top layers predict codes, so no draw may skip them."""
    audio, kept = config.model.audio, elastic.keep_last_layers
    if audio is not None and elastic.depth_probability > 0 and kept < audio.num_codebooks:
        return (
            f"keep_last_layers is {kept}: must be at least model.audio.num_codebooks ({audio.num_codebooks}), "
            "whose heads read the last layers"
        )
    return None


def member_keeps_the_audio_layers(member: MemberConfig, model: ModelConfig) -> str | None:
    if model.audio is not None and 0 < member.num_layers < model.audio.num_codebooks:
        return (
            f"num_layers is {member.num_layers}: must be at least model.audio.num_codebooks "
            f"({model.audio.num_codebooks}), whose heads read the last layers"
        )
    return None


def audio_model_has_a_tokenizer(config: Config) -> str | None:
    audio, tokenizer = config.model.audio, config.tokenizer
    if audio is None:
        named = next((name for name in ("audio", "speaker") if getattr(tokenizer, name)), None)
        return (
            f"tokenizer.{named} is set, but the model has no audio section: add one, or leave it out" if named else None
        )
    if not tokenizer.audio:
        return "tokenizer.audio is empty: name the folder of an audio tokenizer (tools/tokenizer.py train audio)"
    if bool(audio.speaker_dim) != bool(tokenizer.speaker):
        return (
            f'model.audio.speaker_dim is {audio.speaker_dim} and tokenizer.speaker "{tokenizer.speaker}": set both '
            "(tools/tokenizer.py train speaker makes one), or neither"
        )
    return None


def audio_data_is_in_range(config: Config) -> str | None:
    audio = config.data.audio
    speed = outside({"speed_range": audio.speed_range}, lambda value: 0 <= value <= 0.5, "must lie between 0 and 0.5")
    shares = not_a_share(condition_dropout=audio.condition_dropout, level_dropout=audio.level_dropout)
    return prefixed("data.audio", [shares, speed, negative(max_delay=audio.max_delay)])


def audio_sampling_is_in_range(config: Config) -> str | None:
    sampling = config.generation.audio
    top_p = outside({"top_p": sampling.top_p}, lambda value: 0 < value <= 1, "must be above 0 and at most 1")
    others = negative(temperature=sampling.temperature, top_k=sampling.top_k, guidance=sampling.guidance)
    return prefixed("generation.audio", [top_p, others, not_positive(max_seconds=sampling.max_seconds)])


def sounding_prompts_fit_the_model(config: Config) -> str | None:
    audio, found = config.model.audio, []
    for i, prompt in enumerate(config.generation.media_prompts):
        where = f"generation.media_prompts.{i}"
        if audio is None and (prompt.audio or prompt.speaker or prompt.answer == "audio"):
            found.append(f"{where}: the model has no audio section: leave this prompt out")
        elif audio is not None and prompt.speaker and not audio.speaker_dim:
            found.append(f"{where}.speaker is set, but model.audio.speaker_dim is 0: leave it out, or set both")
    return joined(*found)


AUDIO_MODEL_RULES = (audio_sizes_are_positive, audio_frames_are_whole_samples, audio_levels_have_layers)
AUDIO_STAGE_RULES = (audio_stage_is_in_range,)
AUDIO_ELASTIC_RULES = (audio_layers_are_kept,)
AUDIO_MEMBER_RULES = (member_keeps_the_audio_layers,)
AUDIO_RUN_RULES = (
    audio_model_has_a_tokenizer,
    audio_data_is_in_range,
    audio_sampling_is_in_range,
    sounding_prompts_fit_the_model,
)
