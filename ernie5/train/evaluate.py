"""Validation: the loss of held-out text, in nats a token and in bits a byte, and of held-out pictures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import paddle

from ernie5.config.schema import MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.modality.batch import make_batch
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet


@dataclass(frozen=True)
class ValidationSet:
    """Whole documents, packed once, so that every token is predicted exactly once."""

    rows: list[UnifiedSequence]
    num_bytes: int  # UTF-8 bytes of the text whose tokens carry loss


class Score(NamedTuple):
    loss: float  # nats a token
    # Total negative log-likelihood in bits over the UTF-8 bytes of the text; no tokenizer flatters it. None: no text.
    bits_per_byte: float | None
    loss_vision: float | None = None  # nats a bit of what is generated; None where nothing is

    @property
    def rank(self) -> float:
        """What checkpoints of one tokenizer are compared by, lower is better: nats a token and nats a visual bit."""
        return self.loss + (self.loss_vision or 0.0)


def evaluate_members(
    model: Ernie5ForCausalLM,
    validation: ValidationSet,
    members: tuple[MemberConfig, ...],
    rows_per_batch: int,
    coder: VisionCoder | None = None,
) -> tuple[Score, dict[str, Score]]:
    """The full model's score and that of each named member of the elastic family."""

    def score(subnet: Subnet) -> Score:
        return evaluate(model, validation, subnet, rows_per_batch, coder)

    return score(full_subnet(model.config)), {m.name: score(member_subnet(model.config, m)) for m in members}


@paddle.no_grad()
def evaluate(
    model: Ernie5ForCausalLM,
    validation: ValidationSet,
    subnet: Subnet,
    rows_per_batch: int,
    coder: VisionCoder | None = None,
) -> Score:
    """Next-token and visual losses alone; the multi-token prediction block does not run."""
    model.eval()
    text = text_weight = vision = vision_weight = 0.0
    for start in range(0, len(validation.rows), rows_per_batch):
        batch = make_batch(stack(validation.rows[start : start + rows_per_batch]), coder)
        text_loss, vision_loss = model.validation_losses(batch, subnet)
        text += float(text_loss)
        text_weight += float(batch.loss_weight.sum())
        if vision_loss is not None:
            vision += float(vision_loss)
            vision_weight += float(batch.vision.generated.weight.sum())
    model.train()
    loss_vision = vision / vision_weight if vision_weight else None
    bits_per_byte = text / math.log(2) / validation.num_bytes if validation.num_bytes else None
    return Score(text / text_weight, bits_per_byte, loss_vision)
