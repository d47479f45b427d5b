"""Validation: the loss of held-out text, in nats a token and in bits a byte, and of held-out pictures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import paddle

from ernie5.config.schema import MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.modality.batch import NO_CODERS, Coders, make_batch
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet

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
    model: Ernie5ForCausalLM,
    validation: ValidationSet,
    members: tuple[MemberConfig, ...],
    rows_per_batch: int,
    coders: Coders = NO_CODERS,
) -> tuple[Score, dict[str, Score]]:
    """The full model's score and that of each named member of the elastic family."""

    def score(subnet: Subnet) -> Score:
        return evaluate(model, validation, subnet, rows_per_batch, coders)

    return score(full_subnet(model.config)), {m.name: score(member_subnet(model.config, m)) for m in members}


@paddle.no_grad()
def evaluate(
    model: Ernie5ForCausalLM,
    validation: ValidationSet,
    subnet: Subnet,
    rows_per_batch: int,
    coders: Coders = NO_CODERS,
) -> Score:
    """The losses of next groups of tokens alone; the multi-token prediction block does not run."""
    model.eval()
    sums, weights = dict.fromkeys(MODALITIES, 0.0), dict.fromkeys(MODALITIES, 0.0)
    for start in range(0, len(validation.rows), rows_per_batch):
        batch = make_batch(stack(validation.rows[start : start + rows_per_batch]), coders)
        losses, of_batch = model.validation_losses(batch, subnet), batch.weights()
        for name in MODALITIES:
            if (loss := getattr(losses, name)) is not None:
                sums[name] += float(loss)
                weights[name] += of_batch[name]
    model.train()
    means = {name: sums[name] / weights[name] if weights[name] else None for name in MODALITIES}
    bits_per_byte = sums["text"] / math.log(2) / validation.num_bytes if validation.num_bytes else None
    return Score(means["text"], bits_per_byte, means["vision"], means["audio"])
