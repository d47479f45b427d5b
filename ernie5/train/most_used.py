"""Experts by their use: of a run's log or measured over data, and masks that keep the most used ones of each layer."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.modality.batch import Coders
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.block import is_moe_layer
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.parallel.data_parallel import ALONE
from ernie5.train.encoding import encode_with, make_batches
from ernie5.train.expert_use import counts_of_all, expert_use, watch_experts
from ernie5.train.metrics import FILE_NAME, read_metrics

Use = dict[int, np.ndarray]  # row of an expert mask -> float [experts]: the share of tokens that each expert gets


def recorded_use(run_dir: Path | str, config: ModelConfig) -> Use:
    """What the end of a run measured on its validation data; of the prediction block, what training last logged.

    Raises UserError for a run without such records, or of another model.
    """
    path = Path(run_dir) / FILE_NAME
    records = read_metrics(path)
    measured = _last(records, "expert_use", "shares")
    if measured is None:
        raise UserError(
            f"{path}: holds no use of experts, which is measured when a run ends; name the folder of a run that has "
            "ended, or give --measure"
        )
    use = _mean_over_kinds(measured)
    if config.num_nextn_predict_layers and (trained := _last(records, "train", "load")) is not None:
        load = np.array(trained["load"][-1], float)
        use[config.num_hidden_layers] = load / max(load.sum(), 1)
    routing = [row for row in range(config.num_hidden_layers) if is_moe_layer(config, row)]
    sizes = {len(shares) for shares in use.values()}
    if not set(routing) <= set(use) or sizes != {config.moe.num_experts}:
        raise UserError(
            f"{path}: is of a model with experts {sorted(sizes)} in layers {sorted(use)}; name the run of this model"
        )
    return use


@paddle.no_grad()
def measured_use(model: Ernie5ForCausalLM, rows: Sequence[UnifiedSequence], coders: Coders) -> Use:
    """Over rows of data, the prediction block's too. UserError where there are none."""
    if not rows:
        raise UserError("there is nothing to measure the use of experts over; name data that is not empty")
    model.eval()
    with watch_experts(model) as watch:
        for row in rows:
            alone = stack([row])
            (batch,) = make_batches([alone], encode_with(coders, [alone]), None)
            watch.expect([row.token_kind])
            model(batch, full_subnet(model.config))
    return _mean_over_kinds(expert_use(counts_of_all(watch, ALONE, model.config), rows))


def most_used(config: ModelConfig, rows: Iterable[int], use: Mapping[int, np.ndarray], count: int) -> np.ndarray:
    """bool [layers + mtp blocks, experts]: in each of `rows` the `count` most used, of equals the first; else all.

    Raises UserError for a row whose use is not known.
    """
    kept = np.ones([config.num_hidden_layers + config.num_nextn_predict_layers, config.moe.num_experts], bool)
    for row in rows:
        if row not in use:
            what = "the prediction block" if row == config.num_hidden_layers else f"layer {row}"
            raise UserError(f"the use of the experts of {what} is not known: give --measure, or --experts for it")
        kept[row] = False
        kept[row, np.argsort(-use[row], kind="stable")[:count]] = True
    return kept


def _mean_over_kinds(record: Mapping[str, Any]) -> Use:
    """All kinds of tokens count alike, whatever their numbers: pictures have more tokens than what is said of them."""
    shares = zip(record["layers"], record["shares"], strict=True)
    return {layer_id: np.mean(list(by_kind.values()), 0) for layer_id, by_kind in shares}


def _last(records: Sequence[Mapping[str, Any]], kind: str, key: str) -> Mapping[str, Any] | None:
    return next((record for record in reversed(records) if record.get("kind") == kind and key in record), None)
