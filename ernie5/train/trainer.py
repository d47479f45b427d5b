"""The training loop: reads as the algorithm, and can be stopped at any moment."""

import gc
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import paddle
from tqdm import tqdm

from ernie5.config.schema import Config, StageConfig
from ernie5.data.loader import Loader
from ernie5.data.packing import build_row
from ernie5.elastic.sampler import draw_subnet
from ernie5.errors import Fault, UserError
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Ernie5ForCausalLM, Losses
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.parallel.data_parallel import first_named, summed_by_name
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.pipeline import Task
from ernie5.parallel.processes import PeerLost
from ernie5.parallel.straggler import Stragglers
from ernie5.services.pool import EncodingPool
from ernie5.train.balance import ExpertBalance
from ernie5.train.evaluate import Score, ValidationSet, evaluate, evaluate_members
from ernie5.train.expert_use import counts_of_all, expert_use, watch_experts
from ernie5.train.metrics import MetricsLog
from ernie5.train.modality_balance import averaged, balance_weights
from ernie5.train.modality_gradients import modality_gradient_norms
from ernie5.train.optimizer import clip_grad_norm, first_not_finite
from ernie5.train.prepared import PreparedSteps
from ernie5.train.schedule import learning_rate, steps_left, vision_bits
from ernie5.train.vision_tokenizers import VisionTokenizers

logger = logging.getLogger(__name__)

T = TypeVar("T")


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


class Shown(NamedTuple):
    """A sample that a run shows of itself."""

    prompt: str
    text: str = ""  # what was written behind it
    input_file: str = ""  # the medium that the prompt holds; names are relative to the run folder
    output_file: str = ""  # the medium that was drawn


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the loop calls and does not own: on all processes, but for `save_alone` and what has a default."""

    save: Callable[..., None]  # state, loader state, score
    save_alone: Callable[..., None]  # state, loader state; by the first, unless a checkpoint of this step stands
    poll: Callable[[], None]  # between steps
    finish: Callable[[], None]  # waits for what `save` writes in the background
    whole_model: Callable[[], Ernie5ForCausalLM | None]  # for the first process; the others get None
    metrics: MetricsLog | None = None
    show_samples: Callable[[Ernie5ForCausalLM, int, int], list[Shown]] | None = (
        None  # step, bits of the vision tokenizer
    )
    validation: Callable[[int, bool], ValidationSet] | None = None  # tokens in a row, complete or a quick part


class Trainer:
    """Runs the stages of a config over a model. `fit` returns when they are done or when it was asked to stop."""

    def __init__(
        self,
        config: Config,
        parallel: ParallelModel,
        optimizer: paddle.optimizer.Optimizer,
        loader: Loader | None,  # of the first process
        services: Services,
        vision: VisionTokenizers | None = None,
        audio: AudioCoder | None = None,
        pool: EncodingPool | None = None,  # encodes the media; None: done here
    ):
        self.config, self.parallel, self.optimizer, self.loader = config, parallel, optimizer, loader
        self.model, self.ranks = parallel.model, parallel.ranks
        self.vision, self.audio = vision, audio
        self.services = services
        ahead = config.services.ahead if pool is not None else 0
        self.prepared = PreparedSteps(loader, self.ranks, parallel.share, self._bits, self._coders, pool, ahead)
        self.balance = ExpertBalance(self.model)
        self.own_losses: dict[str, float] = {}  # of this process in the last step
        self.stragglers = Stragglers(self.ranks, config.train.log_steps)
        self.state = TrainState()
        self.loader_state = (
            loader.state_dict() if loader is not None else {}
        )  # as of self.state: a step that fails has not consumed its rows
        self.saved_step = -1  # of which the checkpoint is written, or is being written
        self.asked_by: int | None = None  # the signal that came to this process
        self.stop_signal: int | None = None  # the one that all processes stop by

    def restore(self, state: TrainState, loader_state: dict) -> None:
        """Goes on from a checkpoint; model and optimizer are restored by the caller."""
        self.state, self.loader_state, self.saved_step = state, loader_state, state.step
        if self.loader is not None:
            self.loader.load_state_dict(loader_state)

    def fit(self) -> bool:
        """Trains to the end of the last stage. False: a signal stopped it before, and all of it is saved.

        An error in the data or a NaN saves what was trained before it goes on.
        """
        previous = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        gc.freeze()  # what is built stays, and to visit it again and again costs a small model 3 % of a step
        try:
            self.ranks.on_first(lambda: None)  # however long it took to get here
            while self.state.stage_id < len(self.config.stages) and not self._must_stop():
                self._run_stage(self.config.stages[self.state.stage_id])
                if not self._must_stop():
                    self.state = self.state.next_stage()
            if not self.state.is_finished:
                self._finish()
        except (UserError, Fault) as error:
            if error is self.prepared.error:  # all processes have met it
                logger.info("at step %d %s", self.state.step, self._saved_by_all())
            elif not self.parallel.mesh.is_divided and self.ranks.is_first:  # else it takes others, who may be gone
                self._save_alone()
            raise
        finally:
            gc.unfreeze()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.stop_signal is None or self.state.is_finished

    def _ask_to_stop(self, number: int, _frame) -> None:
        if self.asked_by is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self.asked_by = number

    def _on_first(self, work: Callable[[], T]) -> T | None:
        """What the first process makes; the others wait, however long, and get None."""
        made: list[T] = []
        self.ranks.on_first(lambda: made.append(work()))
        return made[0] if made else None

    def _must_stop(self) -> bool:
        """Whether a signal has come, to any process, or the steps are done: the same on all processes.

        A signal that comes while they ask each other counts the next time, or one would stop alone.
        """
        if self.ranks.summed(np.array([self.asked_by is not None], np.int64))[0]:
            self.stop_signal = self.asked_by or signal.SIGTERM
        max_steps = self.config.train.max_steps
        return self.stop_signal is not None or bool(max_steps and self.state.step >= max_steps)

    def _run_stage(self, stage: StageConfig) -> None:
        if self.loader is not None:
            self.loader.max_seq_len = stage.max_seq_len
        if self.state.stage_step == 0:
            self._write("event", text=f"stage {stage.name} begins")
        left = steps_left(stage, self.state.stage_tokens)
        if self.config.train.max_steps:
            left = min(left, self.config.train.max_steps - self.state.step)
        total, hidden = self.state.step + left, not self.ranks.is_first
        with tqdm(total=total, initial=self.state.step, desc=stage.name, dynamic_ncols=True, disable=hidden) as bar:
            while self.state.stage_tokens < stage.num_tokens and not self._must_stop():
                self.stragglers.begin_step()
                report = self._step(stage)
                for slow in self.stragglers.end_step(self.state.step, report.seconds):
                    self._write("event", text=str(slow))
                    if self.ranks.is_first:  # the others' bars are off, and have no place to write above
                        _say(f"step {self.state.step}: {slow}", bar)
                self.services.poll()
                self._show(bar, report)
                self._log(stage, report)
                if self._goes_on(stage) and self._is_due():
                    self._maintain(stage, bar)

    def _goes_on(self, stage: StageConfig) -> bool:
        """Whether another step follows; the last one's samples and scores are made by `_finish`."""
        is_last_stage = self.state.stage_id + 1 == len(self.config.stages)
        return not self._must_stop() and not (is_last_stage and self.state.stage_tokens >= stage.num_tokens)

    def _step(self, stage: StageConfig) -> StepReport:
        """One optimizer step: draw a sub-network, accumulate its gradients over the batch, update, rebalance."""
        start = time.perf_counter()
        rows, own, bits, loader_state = self.prepared.take(stage, self.state.stage_step, self.state.stage_tokens)
        batches = [self.parallel.share_tokens(batch) for batch in own]
        subnet = draw_subnet(self.config.model, stage.elastic, self.config.train.seed, self.state.step)
        if self.state.vision_bits not in (0, bits):
            self._write("event", text=f"the vision tokenizer of {bits} bits takes over")
        shares = loss_shares(stage, self.state.loss_averages)
        every = stage.balance.measure_steps
        is_due = every and self.state.step % every == 0 and self.ranks.is_first
        measured = {} if not is_due else self._gradients(batches[0], subnet, shares)
        losses = self._accumulate_gradients(batches, self._idle_batches(rows, stage, len(batches)), subnet, shares)
        loss = losses.objective(shares)
        grad_norm = self._clip_grad_norm()
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            self._stop_on_nan(loss)
        lr = learning_rate(stage, self.state.stage_step, self.state.stage_tokens)
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)
        self.parallel.share_updates()
        self.balance.update(subnet, stage.expert_bias_speed)
        seconds, tokens = time.perf_counter() - start, rows.input_ids.size
        averages = averaged(self.state.loss_averages, asdict(losses), stage.balance.decay)
        self.state = self.state.advance(tokens, seconds, bits, averages)
        self.loader_state = loader_state
        return StepReport(
            loss=loss,
            losses=losses,
            shares=shares,
            gradients=measured,
            grad_norm=grad_norm,
            lr=lr,
            batch_tokens=tokens,
            seconds=seconds,
            subnet=subnet,
        )

    def _clip_grad_norm(self) -> float:
        def summed(squares: float) -> float:
            return float(self.ranks.summed(np.array([squares]))[0])

        clip_norm = self.config.optimizer.clip_norm
        return clip_grad_norm(self.parallel.owned(), clip_norm, self.parallel.counted(), summed)

    def _bits(self, stage: StageConfig, step: int) -> int:
        return vision_bits(stage, step, self.vision.most_bits) if self.vision else 0

    def _coders(self, stage: StageConfig, bits: int) -> Coders:
        vision = self.vision.coder(bits, stage.vision.scale_weight_power) if self.vision else None
        return Coders(vision, self.audio)

    def _gradients(self, batch: Batch, subnet: Subnet, shares: dict[str, float]) -> dict[str, float]:
        """Norms of the modalities' gradients at a layer that all of them share, for the log."""
        weights = batch.weights()

        def compute() -> dict[str, paddle.Tensor]:
            terms = _terms(self.model(batch, subnet), weights)
            return {name: term * (shares[name] / weights[name]) for name, term in terms.items()}

        return modality_gradient_norms(compute, self.model)

    def _idle_batches(self, rows: UnifiedSequence, stage: StageConfig, count: int) -> list[Batch]:
        """Batches of pads for a process that has fewer than others: where experts are spread, all have to be there."""
        if self.parallel.mesh.expert == 1:
            return []
        idle = make_batch(stack([build_row([], rows.input_ids.shape[1], pad_id=0)]))
        most = self.parallel.most_rows(rows)
        return [self.parallel.share_tokens(idle)] * (-(-most // stage.micro_batch_rows) - count)

    def _accumulate_gradients(
        self, batches: list[Batch], idle: list[Batch], subnet: Subnet, shares: dict[str, float]
    ) -> StepLosses:
        """Gradients of the mean over the whole batch, however it is cut. `idle` has no part in it."""
        of_batches = [batch.weights() for batch in batches]
        own = {name: sum(weight[name] for weight in of_batches) for name in shares}
        weights = summed_by_name(own, self.parallel.summed_over_tokens)
        weights["mtp"] *= self.config.model.num_nextn_predict_layers > 0
        if not any(weights[name] for name in shares if name != "mtp"):
            raise Fault(
                f"step {self.state.step}: no token of the batch carries loss; check the data with check_data.py"
            )
        sums = dict.fromkeys(shares, 0.0)

        def objective(losses: Losses) -> paddle.Tensor:
            terms = _terms(losses, weights)
            for name, term in terms.items():
                sums[name] += float(term)
            parts = [term * (shares[name] / weights[name]) for name, term in terms.items()]
            return sum(parts, losses.text * 0.0)  # no process leaves out a backward pass that others do

        tasks = [Task(batch, objective) for batch in batches] + [Task(batch, objective, counts=False) for batch in idle]
        for loads in self.parallel.forward_backward(tasks, subnet):
            self.balance.collect(loads)
        # All that is exchanged comes before the first change of a weight: if it fails, what is saved is whole.
        self.balance.sum_over(self.ranks)
        self.parallel.sum_gradients()
        self.own_losses = dict(sums)
        sums = summed_by_name(sums, self.ranks.summed)
        return StepLosses(**{name: sums[name] / weights[name] if weights[name] else None for name in shares})

    def _stop_on_nan(self, loss: float) -> None:
        origin = self._named(next((name for name, one in self.own_losses.items() if not math.isfinite(one)), None))
        where = first_named(self.ranks, first_not_finite(self.model))
        makers = self.parallel.makers_of_not_finite() if self.ranks.size > 1 else []
        raise Fault(
            f"step {self.state.step}: the loss is {loss}{f' (that of {origin})' if origin else ''} and the gradient of "
            f"{where[1] if where else 'no parameter'} is not finite{_made_by(makers)}; {self._saved_by_all()}: "
            f"lower learning_rate or raise warmup_steps and {'resume' if self.state.step else 'start again'}"
        )

    def _named(self, name: str | None) -> str:
        """The first name that any process has, with its number if there are several."""
        found = first_named(self.ranks, name)
        if found is None:
            return ""
        return f"{found[1]} on process {found[0]}" if self.ranks.size > 1 else found[1]

    def _is_due(self) -> bool:
        train = self.config.train
        return any(n and self.state.step % n == 0 for n in (train.eval_steps, train.save_steps, train.sample_steps))

    def _maintain(self, stage: StageConfig, bar: tqdm) -> None:
        """What is due between steps: evaluation, a checkpoint, samples."""
        train, step = self.config.train, self.state.step
        score = None
        if train.eval_steps and step % train.eval_steps == 0:
            score = self._evaluate(stage, complete=False, bar=bar).rank
        if train.save_steps and step % train.save_steps == 0:
            self._save(score)
        if train.sample_steps and step % train.sample_steps == 0:
            self._sample(bar)

    def _finish(self) -> None:
        """The last evaluation reads the whole validation set; the last checkpoint is the run's end."""
        self._save_if_new()
        if self.stop_signal is not None:
            name = signal.Signals(self.stop_signal).name
            self._write("event", text=f"stopped by {name}")
            return
        stage = self.config.stages[min(self.state.stage_id, len(self.config.stages) - 1)]
        score = self._last_score(stage)
        self.state = replace(self.state, is_finished=True)
        self._save(score)
        if self.config.train.sample_steps or not self.parallel.mesh.is_model_shared:
            self._sample()

    def _last_score(self, stage: StageConfig) -> float:
        """Evaluates on everything, and on what earlier checkpoints were scored on, which is the score."""
        self._evaluate(stage, complete=True)
        quick, subnet = self._validation(stage, complete=False), full_subnet(self.config.model)
        coders = self._current_coders(stage)
        with watch_experts(self.model) as watch:
            score = evaluate(self.parallel, quick, subnet, stage.micro_batch_rows, coders, watch)
        counts = counts_of_all(watch, self.ranks, self.config.model)
        if counts and quick is not None:
            self._write("expert_use", **expert_use(counts, quick.rows))
        return score.rank

    def _validation(self, stage: StageConfig, complete: bool) -> ValidationSet | None:
        """Of the first process, which has to read and pack it once."""
        return self._on_first(lambda: self.services.validation(stage.max_seq_len, complete))

    def _evaluate(self, stage: StageConfig, complete: bool, bar: tqdm | None = None) -> Score:
        validation, coders = self._validation(stage, complete), self._current_coders(stage)
        full, members = evaluate_members(self.parallel, validation, self.config.members, stage.micro_batch_rows, coders)
        self._write(
            "eval",
            tokens=self.state.tokens,
            complete=complete,
            **full._asdict(),
            members={name: score._asdict() for name, score in members.items()},
        )
        others = "; ".join(f"{name} {_said(score)}" for name, score in members.items())
        line = f"step {self.state.step}: validation loss {full.loss:.4f}, {_said(full)}"
        if self.ranks.is_first:
            _say(line + (f" ({others})" if others else ""), bar)
        return full

    def _sample(self, bar: tqdm | None = None) -> None:
        """By the first process, which gets the whole model for it."""
        model = self.services.whole_model()

        def show() -> None:
            for shown in self.services.show_samples(model, self.state.step, self.state.vision_bits):
                self._write("sample", **shown._asdict())
                _say(_line(shown).replace("\n", "\n       | "), bar)

        self._on_first(show)

    def _current_coders(self, stage: StageConfig) -> Coders:
        """With the tokenizers that the last step used."""
        return self._coders(stage, self.state.vision_bits or (self.vision.most_bits if self.vision else 0))

    def _write(self, kind: str, **values) -> None:
        if not self.ranks.is_first:
            return
        self.services.metrics.write({"kind": kind, "step": self.state.step, **values})

    def _save_if_new(self) -> None:
        if self.state.step not in (0, self.saved_step):
            self._save(None)

    def _save(self, score: float | None) -> None:
        self.services.save(self.state, self.loader_state, score)
        self.saved_step = self.state.step

    def _saved_by_all(self) -> str:
        """Saves, where all processes end at the same step, and says how that went."""
        if not self.state.step:
            return "nothing was trained before this step"
        try:
            self._save_if_new()
            self.services.finish()
        except PeerLost:
            raise
        except (OSError, Fault) as error:
            return f"the weights before this step could not be saved ({error})"
        return "the weights before this step are saved"

    def _save_alone(self) -> None:
        """What fails here must not hide what ended the run."""
        try:
            if self.state.step:
                self.services.save_alone(self.state, self.loader_state)
        except OSError as error:
            logger.warning("step %d could not be saved: %s", self.state.step, error)

    def _show(self, bar: tqdm, report: StepReport) -> None:
        speed = report.batch_tokens / report.seconds
        shown = "".join(f"{name} {loss:.3f}, " for name, loss in asdict(report.losses).items() if loss is not None)
        bar.set_postfix_str(f"{shown}{speed:,.0f} tokens/s, lr {report.lr:.1e}", refresh=False)
        bar.update(1)

    def _log(self, stage: StageConfig, report: StepReport) -> None:
        interval, step = self.config.train.log_steps, self.state.step
        if not interval or (step % interval and step != 1 and not report.gradients):
            return
        eval_steps = self.config.train.eval_steps
        balance = self.balance.take_window()
        self._write(
            "train",
            tokens=self.state.tokens,
            seconds=round(self.state.seconds, 3),
            stage=stage.name,
            loss=report.loss,
            **{f"loss_{name}": loss for name, loss in asdict(report.losses).items()},
            **({"vision_bits": self.state.vision_bits} if self.vision else {}),
            modalities=_modalities(report),
            lr=report.lr,
            grad_norm=report.grad_norm,
            tokens_per_s=report.batch_tokens / report.seconds,
            batch_tokens=report.batch_tokens,
            max_over_mean=balance.max_over_mean,
            entropy=balance.entropy,
            subnet={
                "layers": len(report.subnet.layer_ids),
                "experts": int(report.subnet.experts_kept().sum(-1).max()),
                "top_k": report.subnet.top_k,
            },
            **({"load": balance.load} if step == 1 or (eval_steps and step % eval_steps == 0) else {}),
        )


def loss_shares(stage: StageConfig, averages: dict[str, float]) -> dict[str, float]:
    """What each loss is multiplied by in the objective."""
    given = {
        "text": 1.0,
        "mtp": stage.mtp_loss_weight,
        "vision": stage.vision.loss_weight,
        "audio": stage.audio.loss_weight,
    }
    balanced = balance_weights(averages, stage.balance)
    return {name: share * balanced.get(name, 1.0) for name, share in given.items()}


def _made_by(ranks: list[int]) -> str:
    """Of a gradient that is not finite."""
    return f" (made by process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))})" if ranks else ""


def _terms(losses: Losses, weights: dict[str, float]) -> dict[str, paddle.Tensor]:
    """The losses of a batch by name, where they weigh."""
    terms = {name: getattr(losses, name) for name in weights if weights[name]}
    return {name: term for name, term in terms.items() if term is not None}


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


def _say(line: str, bar: tqdm | None) -> None:
    """A line above the progress bar."""
    if bar is None:
        logger.info(line)
    else:
        bar.write(line, file=bar.fp)
