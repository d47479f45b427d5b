"""Where a run stands, and what a step says of itself."""

from dataclasses import asdict, dataclass, field, replace

from ernie5.model.subnet import Subnet


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands. What a checkpoint must hold beside weights, optimizer and loader to go on exactly."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # positions trained on
    stage_id: int = 0
    stage_step: int = 0
    stage_tokens: int = 0
    seconds: float = 0.0  # spent in steps so far, over all resumes
    vision_bits: int = 0  # of the vision tokenizer that the last step used; 0: none yet
    loss_averages: dict[str, float] = field(default_factory=dict)  # of each modality, for their balance
    is_finished: bool = False  # evaluated whole and saved; another step, of a longer run, takes it back

    def advance(self, tokens: int, seconds: float, vision_bits: int, loss_averages: dict[str, float]) -> "TrainState":
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + tokens,
            stage_step=self.stage_step + 1,
            stage_tokens=self.stage_tokens + tokens,
            seconds=self.seconds + seconds,
            vision_bits=vision_bits,
            loss_averages=loss_averages,
            is_finished=False,
        )

    def next_stage(self) -> "TrainState":
        return replace(self, stage_id=self.stage_id + 1, stage_step=0, stage_tokens=0)


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """Means over the batch; None where nothing of the kind is in it."""

    text: float | None  # nats a token
    mtp: float | None  # nats a token
    vision: float | None  # nats a bit
    audio: float | None  # nats a code

    def objective(self, shares: dict[str, float]) -> float:
        """Their sum, each with its weight."""
        return sum(shares[name] * loss for name, loss in asdict(self).items() if loss is not None)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one optimizer step says of itself."""

    loss: float  # the objective: the losses with their weights
    losses: StepLosses
    shares: dict[str, float]  # those weights
    gradients: dict[str, float]  # norm of each modality's gradient alone, where it was measured
    grad_norm: float
    lr: float
    batch_tokens: int
    seconds: float
    subnet: Subnet
