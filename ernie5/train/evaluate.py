"""Validation: the loss of held-out text, in nats a token and in bits a byte."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import paddle

from ernie5.config.schema import MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.modality.batch import make_batch
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet


@dataclass(frozen=True)
class ValidationSet:
    """Whole documents, packed once, so that every token is predicted exactly once."""

    rows: list[UnifiedSequence]
    num_bytes: int  # UTF-8 bytes of the text whose tokens carry loss


class Score(NamedTuple):
    loss: float  # nats a token
    bits_per_byte: (
        float  # total negative log-likelihood in bits over the UTF-8 bytes of the text; no tokenizer flatters it
    )


def evaluate_members(
    model: Ernie5ForCausalLM, validation: ValidationSet, members: tuple[MemberConfig, ...], rows_per_batch: int
) -> tuple[Score, dict[str, Score]]:
    """The full model's score and that of each named member of the elastic family."""
    full = evaluate(model, validation, full_subnet(model.config), rows_per_batch)
    subnets = {member.name: member_subnet(model.config, member) for member in members}
    return full, {name: evaluate(model, validation, subnet, rows_per_batch) for name, subnet in subnets.items()}


@paddle.no_grad()
def evaluate(model: Ernie5ForCausalLM, validation: ValidationSet, subnet: Subnet, rows_per_batch: int) -> Score:
    """Next-token loss alone; the multi-token prediction block does not run."""
    model.eval()
    total, weight = 0.0, 0.0
    for start in range(0, len(validation.rows), rows_per_batch):
        batch = make_batch(stack(validation.rows[start : start + rows_per_batch]))
        total += float(model.text_loss(batch, subnet))
        weight += float(batch.loss_weight.sum())
    model.train()
    return Score(total / weight, total / math.log(2) / validation.num_bytes)
