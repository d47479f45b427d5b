"""The gradient of a step: summed over micro-batches and processes, clipped, and looked into where it is not finite."""

import math

import numpy as np
import paddle

from ernie5.config.schema import StageConfig
from ernie5.data.packing import build_row
from ernie5.errors import Fault
from ernie5.modality.batch import Batch, make_batch
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Losses
from ernie5.model.subnet import Subnet
from ernie5.parallel.data_parallel import first_named, summed_by_name
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.pipeline import Task
from ernie5.train.balance import ExpertBalance
from ernie5.train.modality_balance import balance_weights
from ernie5.train.modality_gradients import modality_gradient_norms
from ernie5.train.optimizer import clip_grad_norm, first_not_finite
from ernie5.train.state import StepLosses


class NoLoss(Fault):
    """Nothing in a batch is to be predicted: all processes meet it at the same step."""


class StepGradients:
    """Of the parameters that this process's optimizer steps. All processes call its methods together."""

    def __init__(self, parallel: ParallelModel, balance: ExpertBalance):
        """`balance` collects the load of the experts on the way."""
        self.parallel, self.balance = parallel, balance
        self.own_losses: dict[str, float] = {}  # of this process in the last step

    def accumulate(
        self, step: int, batches: list[Batch], idle: list[Batch], subnet: Subnet, shares: dict[str, float]
    ) -> StepLosses:
        """Gradients of the mean over the whole batch, however it is cut. `idle` has no part in it.

        NoLoss, naming `step`, where nothing in the batch carries loss.
        """
        of_batches = [batch.weights() for batch in batches]
        own = {name: sum(weight[name] for weight in of_batches) for name in shares}
        weights = summed_by_name(own, self.parallel.summed_over_tokens)
        weights["mtp"] *= self.parallel.model.config.num_nextn_predict_layers > 0
        if not any(weights[name] for name in shares if name != "mtp"):
            raise NoLoss(f"step {step}: no token of the batch carries loss; check the data with check_data.py")
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
        self.balance.sum_over(self.parallel.ranks)
        self.parallel.sum_gradients()
        self.own_losses = dict(sums)
        sums = summed_by_name(sums, self.parallel.ranks.summed)
        return StepLosses(**{name: sums[name] / weights[name] if weights[name] else None for name in shares})

    def clip(self, clip_norm: float) -> float:
        """To this norm over all parameters of all processes -> the norm that it had."""

        def summed(squares: float) -> float:
            return float(self.parallel.ranks.summed(np.array([squares]))[0])

        return clip_grad_norm(self.parallel.stepped.values(), clip_norm, self.parallel.counted(), summed)

    def micro_batches(self, rows: UnifiedSequence, num_rows: int) -> list[UnifiedSequence]:
        """This process's part of stacked rows, in parts of at most `num_rows`."""
        return self.parallel.share(rows).split(self._rows_each(len(rows.input_ids), num_rows))

    def _rows_each(self, count: int, most: int) -> int:
        """Of a micro-batch, of `count` rows in all. Stages send one shape, so there every micro-batch has as many."""
        mesh = self.parallel.mesh
        if mesh.pipeline == 1:
            return most
        shares = {count // mesh.data, -(-count // mesh.data)}
        return next(rows for rows in range(most, 0, -1) if not any(share % rows for share in shares))

    def idle_batches(self, rows: UnifiedSequence, micro_batch_rows: int, count: int) -> list[Batch]:
        """Batches of pads for a process that has fewer than others: where experts are spread, all have to be there."""
        if self.parallel.mesh.expert == 1:
            return []
        idle = make_batch(stack([build_row([], rows.input_ids.shape[1], pad_id=0)]))
        most, num_rows = self.parallel.most_rows(rows), self._rows_each(len(rows.input_ids), micro_batch_rows)
        return [self.parallel.share_tokens(idle)] * (-(-most // num_rows) - count)

    def of_modalities(self, batch: Batch, subnet: Subnet, shares: dict[str, float]) -> dict[str, float]:
        """Norms of the modalities' gradients at a layer that all of them share, for the log; by one process alone."""
        weights, model = batch.weights(), self.parallel.model

        def compute() -> dict[str, paddle.Tensor]:
            terms = _terms(model(batch, subnet), weights)
            return {name: term * (shares[name] / weights[name]) for name, term in terms.items()}

        return modality_gradient_norms(compute, model)

    def not_finite(self, loss: float) -> str:
        """What in the last step is not finite, and on which processes it came up."""
        ranks = self.parallel.ranks
        origin = first_named(
            ranks, next((name for name, one in self.own_losses.items() if not math.isfinite(one)), None)
        )
        where = first_named(ranks, first_not_finite(self.parallel.stepped))
        makers = self.parallel.makers_of_not_finite() if ranks.size > 1 else []
        of_loss = f" (that of {origin[1]}{f' on process {origin[0]}' if ranks.size > 1 else ''})" if origin else ""
        return (
            f"the loss is {loss}{of_loss} and the gradient of {where[1] if where else 'no parameter'} is not finite"
            f"{_made_by(makers)}"
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
