"""Validation: the loss of held-out text, in nats a token and in bits a byte, and of held-out pictures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import paddle

from ernie5.config.schema import MemberConfig
from ernie5.data.packing import build_row
from ernie5.elastic.sampler import member_subnet
from ernie5.modality.batch import NO_CODERS, Coders
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Losses
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.parallel.data_parallel import summed_by_name
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.pipeline import Task
from ernie5.train.encoding import encode_with, make_batches
from ernie5.train.expert_use import ExpertWatch

MODALITIES = ("text", "vision", "audio")


@dataclass(frozen=True)
class ValidationSet:
    """Whole documents, packed once, so that every token is predicted exactly once."""

    rows: list[UnifiedSequence]
    num_bytes: int  # UTF-8 bytes of the text whose tokens carry loss


class Score(NamedTuple):
    loss: float  # nats a token
    # Total negative log-likelihood in bits over the UTF-8 bytes of the text; no tokenizer flatters it. None: no text.
    bits_per_byte: float | None
    loss_vision: float | None = None  # nats a bit of what is drawn; None where nothing is
    loss_audio: float | None = None  # nats a code of what is spoken; None where nothing is

    @property
    def rank(self) -> float:
        """What checkpoints of one tokenizer are compared by, lower is better: nats a token, a visual bit and a code."""
        return self.loss + (self.loss_vision or 0.0) + (self.loss_audio or 0.0)


def evaluate_members(
    parallel: ParallelModel,
    validation: ValidationSet | None,
    members: tuple[MemberConfig, ...],
    rows_per_batch: int,
    coders: Coders = NO_CODERS,
) -> tuple[Score, dict[str, Score]]:
    """The full model's score and that of each named member of the elastic family."""
    config = parallel.model.config

    def score(subnet: Subnet) -> Score:
        return evaluate(parallel, validation, subnet, rows_per_batch, coders)

    return score(full_subnet(config)), {member.name: score(member_subnet(config, member)) for member in members}


@paddle.no_grad()
def evaluate(
    parallel: ParallelModel,
    validation: ValidationSet | None,
    subnet: Subnet,
    rows_per_batch: int,
    coders: Coders = NO_CODERS,
    watch: ExpertWatch | None = None,
) -> Score:
    """The losses of next groups of tokens alone; the multi-token prediction block does not run.

    All processes call it together, share the rows and get the score; the first one has `validation`. `watch` is told
    what is read.
    """
    ranks, sums, weights = parallel.ranks, dict.fromkeys(MODALITIES, 0.0), dict.fromkeys(MODALITIES, 0.0)

    def add(losses: Losses) -> paddle.Tensor:
        for name in MODALITIES:
            if (loss := getattr(losses, name)) is not None:
                sums[name] += float(loss)
        return losses.text

    parallel.model.eval()
    count, num_bytes = ranks.from_first((len(validation.rows), validation.num_bytes) if validation else None)
    at_once = rows_per_batch * parallel.rows_at_once
    for start in range(0, count, at_once):
        idle = start + at_once - count if parallel.mesh.is_model_shared else 0
        rows = ranks.from_first(_stacked(validation.rows[start : start + at_once], idle) if validation else None)
        parts = parallel.share(rows).split(rows_per_batch)
        made = make_batches(parts, encode_with(coders, parts), parallel.row_group)
        batches = [parallel.share_tokens(batch) for batch in made]
        if watch is not None:
            watch.expect(parallel.share_places(part.token_kind) for part in parts)
        for of_batch in (batch.weights() for batch in batches):
            for name in MODALITIES:
                weights[name] += of_batch[name]
        parallel.forward([Task(batch, add) for batch in batches], subnet)
    parallel.model.train()
    sums, weights = summed_by_name(sums, ranks.summed), summed_by_name(weights, parallel.summed_over_tokens)
    means = {name: sums[name] / weights[name] if weights[name] else None for name in MODALITIES}
    bits_per_byte = sums["text"] / math.log(2) / num_bytes if num_bytes else None
    return Score(means["text"], bits_per_byte, means["vision"], means["audio"])


def _stacked(rows: list[UnifiedSequence], idle: int) -> UnifiedSequence:
    """With `idle` rows of pads behind them: where a model is shared, all processes have to be there."""
    return stack([*rows, *[build_row([], len(rows[0].input_ids), pad_id=0)] * max(0, idle)])
