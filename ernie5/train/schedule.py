"""Learning rate and batch size as functions of where a stage stands (report §3.2); who can share the batches."""

import math

from ernie5.config.schema import Config, StageConfig
from ernie5.errors import UserError
from ernie5.parallel.mesh import Mesh


def learning_rate(stage: StageConfig, step: int, tokens: int) -> float:
    """The rate of one optimizer step: step counts from 0 in the stage, tokens are those it has trained on before.

    A linear warm-up over `warmup_steps` to the peak; then WSD stays there but for the last `decay_fraction` of the
    stage's tokens, where it goes down as 1 - sqrt (as ERNIE 4.5's open recipe), or a cosine over the whole stage.
    """
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = min(tokens / stage.num_tokens, 1.0)
    span = stage.learning_rate - stage.min_learning_rate
    if stage.lr_schedule == "cosine":
        return stage.min_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * done))
    decay_start = 1.0 - stage.decay_fraction
    if done <= decay_start or stage.decay_fraction == 0:
        return stage.learning_rate
    return stage.min_learning_rate + span * (1.0 - math.sqrt((done - decay_start) / stage.decay_fraction))


def batch_rows(stage: StageConfig, tokens: int) -> int:
    """Rows of `max_seq_len` in the next optimizer step: a linear ramp over `batch_ramp_tokens`, then the full batch."""
    full = stage.batch_tokens // stage.max_seq_len
    if not stage.batch_start_tokens or tokens >= stage.batch_ramp_tokens:
        return full
    share = tokens / stage.batch_ramp_tokens
    size = stage.batch_start_tokens + share * (stage.batch_tokens - stage.batch_start_tokens)
    return min(full, max(1, int(size // stage.max_seq_len)))


def check_batches(config: Config, mesh: Mesh) -> None:
    """UserError for a stage whose smallest batch has fewer rows than share it, or too few passes to be interleaved."""
    for i, stage in enumerate(config.stages):
        rows, needed = batch_rows(stage, 0), mesh.data
        key = f"stages.{i}.{'batch_start_tokens' if stage.batch_start_tokens else 'batch_tokens'}"
        if rows < needed:
            raise UserError(
                f"{key}: makes batches of {rows} rows of {stage.max_seq_len} tokens for {needed} "
                f"processes: raise it to {needed * stage.max_seq_len} or more, or start fewer processes"
            )
        needed = 2 * mesh.pipeline * stage.micro_batch_rows * mesh.data
        if config.parallel.virtual_stages > 1 and rows < needed:
            raise UserError(
                f"{key}: makes batches of {rows} rows of {stage.max_seq_len} tokens, but {mesh.pipeline} interleaved "
                f"stages take {2 * mesh.pipeline} passes or more: raise it to {needed * stage.max_seq_len}, lower "
                "micro_batch_rows, or set parallel.virtual_stages to 1"
            )


def steps_left(stage: StageConfig, tokens: int) -> int:
    """Optimizer steps until the stage has trained on `num_tokens`."""
    steps = 0
    while tokens < stage.num_tokens and batch_rows(stage, tokens) * stage.max_seq_len < stage.batch_tokens:
        tokens += batch_rows(stage, tokens) * stage.max_seq_len
        steps += 1
    return steps + max(0, -(-(stage.num_tokens - tokens) // stage.batch_tokens))


def vision_bits(stage: StageConfig, step: int, most_bits: int) -> int:
    """Bits of the vision tokenizer in use at a step of the stage: those of the last switch, or the most there are."""
    passed = [switch.bits for switch in stage.vision.switches if switch.step <= step]
    return passed[-1] if passed else most_bits
