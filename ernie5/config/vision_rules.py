"""The rules of the vision sections, as in `rules.py`."""

from collections.abc import Sequence

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, outside, prefixed
from ernie5.config.schema import (
    Config,
    MediaPromptConfig,
    ModelConfig,
    ResolutionConfig,
    StageConfig,
    VisionConfig,
    VisionEncoderConfig,
)


def vision_sizes_are_positive(model: ModelConfig) -> str | None:
    vision = model.vision
    if vision is None:
        return None
    own = not_positive(max_bits=vision.max_bits, merger_heads=vision.merger_heads)
    vit = not_positive(
        hidden_size=vision.vit.hidden_size,
        num_hidden_layers=vision.vit.num_hidden_layers,
        num_attention_heads=vision.vit.num_attention_heads,
        intermediate_size=vision.vit.intermediate_size,
    )
    window = negative(temporal_window=vision.temporal_window)
    limits = not_positive(max_understanding_pixels=vision.max_understanding_pixels, max_frames=vision.max_frames)
    return joined(prefixed("model.vision", [own, window, limits]), prefixed("model.vision.vit", [vit]))


def a_token_fits_the_pixels(model: ModelConfig) -> str | None:
    if model.vision is None or not model.vision.encoder.channels:
        return None
    least, pixels = (2 * model.vision.encoder.stride) ** 2, model.vision.max_understanding_pixels
    if 0 < pixels < least:
        return f"model.vision.max_understanding_pixels is {pixels}: must be at least {least}, the pixels of one token"
    return None


def encoder_is_in_range(model: ModelConfig) -> str | None:
    return prefixed("model.vision.encoder", [encoder_fault(model.vision.encoder)]) if model.vision is not None else None


def encoder_fault(encoder: VisionEncoderConfig) -> str | None:
    """What is wrong with the encoder of a tokenizer, or None."""
    if not encoder.channels or min(encoder.channels) <= 0:
        return f"channels is {list(encoder.channels)}: give a number above 0 for each level"
    stride = encoder.temporal_stride
    wrong = None
    if stride <= 0 or stride & (stride - 1):
        wrong = f"temporal_stride is {stride}: must be a power of two, such as 1, 2 or 4"
    elif stride > encoder.stride:
        wrong = f"temporal_stride is {stride}: must not exceed the stride in space, {encoder.stride}"
    return joined(not_positive(num_res_blocks=encoder.num_res_blocks), wrong)


def heads_divide_their_widths(model: ModelConfig) -> str | None:
    """A head of the ViT turns with h and w in pairs, so it needs four dims."""
    if model.vision is None:
        return None
    width, heads = model.vision.vit.hidden_size, model.vision.vit.num_attention_heads
    merger = model.vision.merger_heads
    if min(width, heads, merger) > 0 and (width % (4 * heads) or width % merger):
        return (
            f"model.vision.vit.hidden_size is {width}: must be a multiple of four times num_attention_heads ({heads}) "
            f"and of model.vision.merger_heads ({merger})"
        )
    return None


def resolutions_fit_their_scales(model: ModelConfig) -> str | None:
    if model.vision is None:
        return None
    if not model.vision.resolutions:
        return "model.vision.resolutions is empty: give at least one size with its scales"
    return prefixed("model.vision", [resolutions_fault(model.vision.resolutions, model.vision.encoder.stride)])


def resolutions_fault(resolutions: Sequence[ResolutionConfig], stride: int) -> str | None:
    """What is wrong with a table of sizes under an encoder of this stride, or None."""
    found = [resolution_fault(resolution, stride) for resolution in resolutions]
    sizes = [(resolution.height, resolution.width) for resolution in resolutions]
    for i, (height, width) in enumerate(sizes):
        if (height, width) in sizes[:i]:
            found[i] = f"height and width are {height} and {width} a second time: give every size one list of scales"
    return joined(*(f"resolutions.{i}.{fault}" for i, fault in enumerate(found) if fault))


def resolution_fault(resolution: ResolutionConfig, stride: int) -> str | None:
    """What is wrong with a size and its scales under an encoder of this stride, or None."""
    scales = resolution.scales
    size = (resolution.height, resolution.width)
    if min(size) <= 0 or any(n % stride for n in size):
        return f"height and width are {size[0]} and {size[1]}: must be multiples of the encoder's stride, {stride}"
    if any(len(scale) != 2 or min(scale) <= 0 for scale in scales):
        return "scales must be pairs [height, width] of numbers above 0"
    cells = tuple(n // stride for n in size)
    if len(scales) < 2 or tuple(scales[0]) != (1, 1) or tuple(scales[-1]) != cells:
        return f"scales must begin with [1, 1] and end with [{cells[0]}, {cells[1]}], the cells of the size"
    if any(a > b for one, other in zip(scales, scales[1:], strict=False) for a, b in zip(one, other, strict=True)):
        return "scales must not become smaller"
    return None


def vision_stage_is_in_range(stage: StageConfig) -> str | None:
    vision = stage.vision
    message = negative(loss_weight=vision.loss_weight, scale_weight_power=vision.scale_weight_power)
    steps = [switch.step for switch in vision.switches]
    rising = None
    if steps != sorted(set(steps)) or (steps and steps[0]):
        rising = f"switches have the steps {steps}: begin with 0 and give them in rising order"
    entries = [
        prefixed(f"switches.{i}", [negative(step=switch.step), not_positive(bits=switch.bits)])
        for i, switch in enumerate(vision.switches)
    ]
    return prefixed("vision", [message, rising, *entries])


def vision_model_has_tokenizers(config: Config) -> str | None:
    if config.model.vision is not None and not config.tokenizer.vision:
        return "tokenizer.vision is empty: name the folder of a vision tokenizer (tools/tokenizer.py train vision)"
    if config.model.vision is None and config.tokenizer.vision:
        return "tokenizer.vision names a tokenizer, but the model has no vision section: add one, or leave it out"
    return None


def vision_data_is_in_range(config: Config) -> str | None:
    vision = config.data.vision
    shares = not_a_share(
        condition_dropout=vision.condition_dropout,
        frame_mask_probability=vision.frame_mask_probability,
    )
    rates = outside(
        {"flip_min": vision.flip_min, "flip_max": vision.flip_max, "flip_step": vision.flip_step},
        lambda value: 0 <= value <= 0.5,
        "must lie between 0 and 0.5, where a bit says nothing",
    )
    order = f"flip_min is {vision.flip_min}: must not exceed flip_max ({vision.flip_max})"
    return prefixed("data.vision", [shares, rates, order if vision.flip_min > vision.flip_max else None])


def visual_sampling_is_in_range(config: Config) -> str | None:
    sampling = config.generation.vision
    top_p = outside({"top_p": sampling.top_p}, lambda value: 0 < value <= 1, "must be above 0 and at most 1")
    others = negative(
        temperature=sampling.temperature,
        guidance_start=sampling.guidance_start,
        guidance_end=sampling.guidance_end,
    )
    return prefixed("generation.vision", [top_p, others])


def visual_prompts_fit_the_model(config: Config) -> str | None:
    vision, found = config.model.vision, []
    for i, prompt in enumerate(config.generation.media_prompts):
        where = f"generation.media_prompts.{i}"
        if vision is not None:
            found.append(prefixed(where, _visual_prompt_faults(prompt, vision)))
        elif prompt.image or prompt.video or prompt.answer in ("image", "video"):
            found.append(f"{where}: the model has no vision section: leave this prompt out")
    return joined(*found)


def _visual_prompt_faults(prompt: MediaPromptConfig, vision: VisionConfig) -> list[str | None]:
    sizes = {(r.height, r.width) for r in vision.resolutions}
    size = (prompt.height, prompt.width)
    wrong = size != (0, 0) and size not in sizes
    listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
    return [
        not_positive(fps=prompt.fps, num_frames=prompt.num_frames),
        _frames_fault(prompt, vision),
        f"height and width are {size[0]} and {size[1]}: the model draws {listed}" if wrong else None,
    ]


def _frames_fault(prompt: MediaPromptConfig, vision: VisionConfig) -> str | None:
    stride = vision.encoder.temporal_stride
    if prompt.answer == "video" and (prompt.num_frames < 2 or (prompt.num_frames - 1) % stride):
        return f"num_frames is {prompt.num_frames}: a film needs one more than a multiple of {stride}, and at least 2"
    if prompt.answer != "video" and prompt.num_frames != 1:
        return f"num_frames is {prompt.num_frames}: only what is drawn as a video has more than 1"
    return None


VISION_MODEL_RULES = (
    vision_sizes_are_positive,
    encoder_is_in_range,
    heads_divide_their_widths,
    a_token_fits_the_pixels,
    resolutions_fit_their_scales,
)
VISION_STAGE_RULES = (vision_stage_is_in_range,)
VISION_RUN_RULES = (
    vision_model_has_tokenizers,
    vision_data_is_in_range,
    visual_sampling_is_in_range,
    visual_prompts_fit_the_model,
)
