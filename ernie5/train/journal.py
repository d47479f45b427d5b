"""What a run says while it trains: records of the log, the progress bar, and lines above it."""

import logging
from dataclasses import asdict
from typing import NamedTuple

from tqdm import tqdm

from ernie5.config.schema import StageConfig, TrainConfig
from ernie5.train.balance import ExpertBalance
from ernie5.train.evaluate import Score
from ernie5.train.metrics import MetricsLog
from ernie5.train.state import StepReport, TrainState

logger = logging.getLogger(__name__)


class Shown(NamedTuple):
    """A sample that a run shows of itself."""

    prompt: str
    text: str = ""  # what was written behind it
    input_file: str = ""  # the medium that the prompt holds; names are relative to the run folder
    output_file: str = ""  # the medium that was drawn


class Journal:
    """Of the first process, which has the log; that of the others says nothing."""

    def __init__(self, config: TrainConfig, metrics: MetricsLog | None):
        self._config, self._metrics = config, metrics
        self._bar: tqdm | None = None  # while there is one

    @property
    def is_silent(self) -> bool:
        return self._metrics is None

    def open_bar(self, stage: StageConfig, step: int, total: int) -> tqdm:
        """Over the steps of a stage."""
        self._bar = tqdm(total=total, initial=step, desc=stage.name, dynamic_ncols=True, disable=self.is_silent)
        return self._bar

    def write(self, kind: str, step: int, **values: object) -> None:
        """A record of the log."""
        if not self.is_silent:
            self._metrics.write({"kind": kind, "step": step, **values})

    def say(self, line: str) -> None:
        """Above the progress bar."""
        if self.is_silent:
            return
        if self._bar is None or self._bar.disable:
            logger.info(line)
        else:
            self._bar.write(line, file=self._bar.fp)

    def evaluated(self, state: TrainState, full: Score, members: dict[str, Score], complete: bool) -> None:
        """The scores of the model and of its members."""
        scores = {name: score._asdict() for name, score in members.items()}
        self.write("eval", state.step, tokens=state.tokens, complete=complete, **full._asdict(), members=scores)
        others = "; ".join(f"{name} {_said(score)}" for name, score in members.items())
        line = f"step {state.step}: validation loss {full.loss:.4f}, {_said(full)}"
        self.say(line + (f" ({others})" if others else ""))

    def sampled(self, step: int, shown: Shown) -> None:
        """A sample of the model."""
        self.write("sample", step, **shown._asdict())
        self.say(_line(shown).replace("\n", "\n       | "))

    def stepped(self, state: TrainState, stage: StageConfig, report: StepReport, balance: ExpertBalance) -> None:
        """A step, which the bar shows and, where it is due, the log."""
        speed = report.batch_tokens / report.seconds
        if self._bar is not None:
            losses = ((name, loss) for name, loss in asdict(report.losses).items() if loss is not None)
            shown = "".join(f"{name} {loss:.3f}, " for name, loss in losses)
            self._bar.set_postfix_str(f"{shown}{speed:,.0f} tokens/s, lr {report.lr:.1e}", refresh=False)
            self._bar.update(1)
        interval, step = self._config.log_steps, state.step
        if not interval or (step % interval and step != 1 and not report.gradients):
            return
        window, eval_steps = balance.take_window(), self._config.eval_steps
        self.write(
            "train",
            step,
            tokens=state.tokens,
            seconds=round(state.seconds, 3),
            stage=stage.name,
            loss=report.loss,
            **{f"loss_{name}": loss for name, loss in asdict(report.losses).items()},
            **({"vision_bits": state.vision_bits} if state.vision_bits else {}),
            modalities=_modalities(report),
            lr=report.lr,
            grad_norm=report.grad_norm,
            tokens_per_s=speed,
            batch_tokens=report.batch_tokens,
            max_over_mean=window.max_over_mean,
            entropy=window.entropy,
            subnet={
                "layers": len(report.subnet.layer_ids),
                "experts": int(report.subnet.experts_kept().sum(-1).max()),
                "top_k": report.subnet.top_k,
            },
            **({"load": window.load} if step == 1 or (eval_steps and step % eval_steps == 0) else {}),
        )


def _modalities(report: StepReport) -> dict[str, dict[str, float]]:
    """Loss, weight and, where it was measured, gradient norm of each loss of a step."""
    losses = {name: loss for name, loss in asdict(report.losses).items() if loss is not None}
    return {
        name: {"loss": loss, "weight": report.shares[name]}
        | ({"grad_norm": report.gradients[name]} if name in report.gradients else {})
        for name, loss in losses.items()
    }


def _said(score: Score) -> str:
    text = f"{score.bits_per_byte:.4f} bits per byte" if score.bits_per_byte is not None else ""
    vision = f"{score.loss_vision:.4f} nats a visual bit" if score.loss_vision is not None else ""
    audio = f"{score.loss_audio:.4f} nats a code" if score.loss_audio is not None else ""
    return ", ".join(filter(None, [text, vision, audio]))


def _line(shown: Shown) -> str:
    media = [f"{verb} {file}" for verb, file in (("takes", shown.input_file), ("makes", shown.output_file)) if file]
    return " | ".join(["sample", *media, f"{shown.prompt}{shown.text}"])
