"""The training loop: reads as the algorithm, and can be stopped at any moment."""

import gc
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np
import paddle

from ernie5.config.schema import Config, StageConfig
from ernie5.data.loader import Loader
from ernie5.elastic.sampler import draw_subnet
from ernie5.errors import Fault, UserError
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.processes import PeerLost
from ernie5.parallel.straggler import Stragglers
from ernie5.services.pool import EncodingPool
from ernie5.train.balance import ExpertBalance
from ernie5.train.evaluate import Score, ValidationSet, evaluate, evaluate_members
from ernie5.train.expert_use import counts_of_all, expert_use, watch_experts
from ernie5.train.gradients import NoLoss, StepGradients, loss_shares
from ernie5.train.journal import Journal, Shown
from ernie5.train.metrics import MetricsLog
from ernie5.train.modality_balance import averaged
from ernie5.train.prepared import PreparedSteps
from ernie5.train.schedule import learning_rate, steps_left, vision_bits
from ernie5.train.state import StepReport, TrainState
from ernie5.train.vision_tokenizers import VisionTokenizers

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        self.balance = ExpertBalance(self.model)
        self.gradients = StepGradients(parallel, self.balance)
        share = self.gradients.micro_batches
        self.prepared = PreparedSteps(
            loader, self.ranks, share, self._bits, self._coders, pool, ahead, parallel.row_group
        )
        self.journal = Journal(config.train, services.metrics)
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
            if error is self.prepared.error or isinstance(error, NoLoss):  # all processes have met it
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
            self.journal.write("event", self.state.step, text=f"stage {stage.name} begins")
        left = steps_left(stage, self.state.stage_tokens)
        if self.config.train.max_steps:
            left = min(left, self.config.train.max_steps - self.state.step)
        with self.journal.open_bar(stage, self.state.step, self.state.step + left):
            while self.state.stage_tokens < stage.num_tokens and not self._must_stop():
                self.stragglers.begin_step()
                report = self._step(stage)
                for slow in self.stragglers.end_step(self.state.step, report.seconds):
                    self.journal.write("event", self.state.step, text=str(slow))
                    self.journal.say(f"step {self.state.step}: {slow}")
                self.services.poll()
                self.journal.stepped(self.state, stage, report, self.balance)
                if self._goes_on(stage) and self._is_due():
                    self._maintain(stage)

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
            self.journal.write("event", self.state.step, text=f"the vision tokenizer of {bits} bits takes over")
        shares = loss_shares(stage, self.state.loss_averages)
        every = stage.balance.measure_steps
        is_due = every and self.state.step % every == 0 and self.ranks.is_first
        measured = {} if not is_due else self.gradients.of_modalities(batches[0], subnet, shares)
        idle = self.gradients.idle_batches(rows, stage.micro_batch_rows, len(batches))
        losses = self.gradients.accumulate(self.state.step, batches, idle, subnet, shares)
        loss, grad_norm = losses.objective(shares), self.gradients.clip(self.config.optimizer.clip_norm)
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

    def _stop_on_nan(self, loss: float) -> None:
        found = self.gradients.not_finite(loss)
        raise Fault(
            f"step {self.state.step}: {found}; {self._saved_by_all()}: "
            f"lower learning_rate or raise warmup_steps and {'resume' if self.state.step else 'start again'}"
        )

    def _bits(self, stage: StageConfig, step: int) -> int:
        return vision_bits(stage, step, self.vision.most_bits) if self.vision else 0

    def _coders(self, stage: StageConfig, bits: int) -> Coders:
        vision = self.vision.coder(bits, stage.vision.scale_weight_power) if self.vision else None
        return Coders(vision, self.audio)

    def _is_due(self) -> bool:
        train = self.config.train
        return any(n and self.state.step % n == 0 for n in (train.eval_steps, train.save_steps, train.sample_steps))

    def _maintain(self, stage: StageConfig) -> None:
        """What is due between steps: evaluation, a checkpoint, samples."""
        train, step = self.config.train, self.state.step
        score = None
        if train.eval_steps and step % train.eval_steps == 0:
            score = self._evaluate(stage, complete=False).rank
        if train.save_steps and step % train.save_steps == 0:
            self._save(score)
        if train.sample_steps and step % train.sample_steps == 0:
            self._sample()

    def _finish(self) -> None:
        """The last evaluation reads the whole validation set; the last checkpoint is the run's end."""
        self._save_if_new()
        if self.stop_signal is not None:
            name = signal.Signals(self.stop_signal).name
            self.journal.write("event", self.state.step, text=f"stopped by {name}")
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
            self.journal.write("expert_use", self.state.step, **expert_use(counts, quick.rows))
        return score.rank

    def _validation(self, stage: StageConfig, complete: bool) -> ValidationSet | None:
        """Of the first process, which has to read and pack it once."""
        return self._on_first(lambda: self.services.validation(stage.max_seq_len, complete))

    def _evaluate(self, stage: StageConfig, complete: bool) -> Score:
        validation, coders = self._validation(stage, complete), self._current_coders(stage)
        full, members = evaluate_members(self.parallel, validation, self.config.members, stage.micro_batch_rows, coders)
        self.journal.evaluated(self.state, full, members, complete)
        return full

    def _sample(self) -> None:
        """By the first process, which gets the whole model for it."""
        model = self.services.whole_model()

        def show() -> None:
            for shown in self.services.show_samples(model, self.state.step, self.state.vision_bits):
                self.journal.sampled(self.state.step, shown)

        self._on_first(show)

    def _current_coders(self, stage: StageConfig) -> Coders:
        """With the tokenizers that the last step used."""
        return self._coders(stage, self.state.vision_bits or (self.vision.most_bits if self.vision else 0))

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
