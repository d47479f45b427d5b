"""The state of a Paddle optimizer under the structured names of the model's parameters.

`optimizer.state_dict()` is keyed by Paddle's own names (`linear_3.w_0_moment1_0`), which count every layer built before
in the process; and a parameter has state only from its first gradient on, which elastic depth may bring late. So both
directions go by parameter, and a parameter without state stays without. The learning rate is not part of it: the
schedule is a function of the step.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import paddle

from ernie5.errors import UserError
from ernie5.model.weights import assign
from ernie5.parallel.pieces import Cut

MASTER_WEIGHT = "master_weight"  # the float32 copy of a bfloat16 parameter


def export_optimizer(
    optimizer: paddle.optimizer.Optimizer, stepped: Mapping[str, paddle.Tensor]
) -> dict[str, paddle.Tensor]:
    """ "<structured parameter name>/<state name>" -> the live tensor: moments, powers of the betas, master weights.

    `stepped`: what the optimizer steps by structured names, parameters or runs of them.
    """
    tensors = {}
    for name, parameter in stepped.items():
        key = parameter.name
        master = getattr(optimizer, "_master_weights", {}).get(key)
        if master is not None:
            tensors[f"{name}/{MASTER_WEIGHT}"] = master
            key = master.name  # Paddle keys the state by the tensor it updates
        for state_name, by_parameter in optimizer._accumulators.items():
            if key in by_parameter:
                tensors[f"{name}/{state_name}"] = by_parameter[key]
    return tensors


def state_cuts(tensors: Iterable[str], cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    """Which of an optimizer's tensors are cut as what it steps is: all but the powers of the betas."""
    of_parameter = {name: cuts.get(name.rpartition("/")[0]) for name in tensors if "_pow_" not in name}
    return {name: cut for name, cut in of_parameter.items() if cut is not None}


def import_optimizer(
    optimizer: paddle.optimizer.Optimizer,
    stepped: Mapping[str, paddle.Tensor],
    tensors: Mapping[str, np.ndarray],
    source: Path | str,
) -> None:
    """Puts exported state into an optimizer of the same tensors, so that its next step is bit for bit the one that
    would have come.

    Raises UserError when the state is not that of this optimizer on this model; `source` names it in the message.
    """
    with_state = {name.rpartition("/")[0] for name in tensors}
    unknown = sorted(with_state - stepped.keys())
    if unknown:
        raise UserError(
            f"{source}: optimizer state of {unknown[0]!r}, which the model lacks; load the model it belongs to"
        )
    # What the optimizer itself does when a parameter gets its first gradient; where there is state already it keeps it.
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, [parameter for name, parameter in stepped.items() if name in with_state])
    assign(export_optimizer(optimizer, stepped).items(), tensors, source)
