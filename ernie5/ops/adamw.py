"""AdamW (arXiv:1711.05101) over all parameters at once, and the sums of squares that a global norm is made of."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import paddle

from ernie5.ops import backend

NATIVE_DTYPES = (paddle.float32, paddle.bfloat16)


class AdamW(paddle.optimizer.AdamW):
    """Paddle's optimizer, which is the definition; `step` is one compiled call for all parameters of a kind.

    The state and, in float32, every bit of the result are Paddle's: a checkpoint of one goes on with the other.
    """

    def step(self) -> None:
        if not (backend.is_native("adamw") and self._is_plain()):
            super().step()
            return
        updated = [one for one in self._parameter_list if not one.stop_gradient and one.grad is not None]
        if not all(map(_fits, updated)):
            super().step()
            return
        self._create_accumulators(paddle.base.framework.default_main_program().global_block(), updated)
        kinds = defaultdict(list)  # parameters that one call can take
        for one in updated:
            decay = self._weight_decay if self._apply_decay_param_fun(one.name) else 0.0
            kinds[one.dtype, one.optimize_attr["learning_rate"], decay].append(one)
        for (_, rate_scale, decay), parameters in kinds.items():
            rate = np.float32(self.get_lr()) * np.float32(rate_scale)
            settings = float(rate), self._beta1, self._beta2, self._epsilon, decay
            with paddle.no_grad():
                backend.call("adamw", self._tensors(parameters), *settings)

    def _is_plain(self) -> bool:
        """Whether nothing is asked for that the compiled step lacks."""
        has_groups = isinstance(self._parameter_list[0], dict)
        by_name = self._apply_decay_param_fun is not None
        return by_name and not has_groups and self._grad_clip is None and not self._amsgrad

    def _tensors(self, parameters: list[paddle.Tensor]) -> list[list[paddle.Tensor]]:
        """The operator's inputs: values, gradients, master weights (the values where there are none) and state."""
        values = [parameter.detach() for parameter in parameters]  # the same memory
        masters = [self._master_weights.get(one.name, value) for one, value in zip(parameters, values, strict=True)]
        keys = [self._master_weights.get(parameter.name, parameter).name for parameter in parameters]
        names = self._moment1_acc_str, self._moment2_acc_str, self._beta1_pow_acc_str, self._beta2_pow_acc_str
        states = [[self._accumulators[name][key] for key in keys] for name in names]
        return [values, [parameter.grad for parameter in parameters], masters, *states]


def sums_of_squares(tensors: Sequence[paddle.Tensor]) -> list[float]:
    """The sum of the squares of each tensor, whatever its shape and float dtype."""
    if tensors and backend.is_native("sums_of_squares") and _are_alike(tensors):
        return backend.call("sums_of_squares", [list(tensors)])[0].tolist()
    flat = [tensor.astype("float32").flatten() for tensor in tensors]
    return [float(paddle.dot(numbers, numbers)) for numbers in flat]


def scale_all(tensors: Sequence[paddle.Tensor], factor: float) -> None:
    """Multiplies every tensor, in place."""
    if tensors and backend.is_native("scale_all") and _are_alike(tensors):
        backend.call("scale_all", [[tensor.detach() for tensor in tensors]], factor)
        return
    for tensor in tensors:
        tensor.scale_(factor)


def _fits(parameter: paddle.Tensor) -> bool:
    return parameter.grad.dtype == parameter.dtype and _is_native(parameter)


def _are_alike(tensors: Sequence[paddle.Tensor]) -> bool:
    return all(tensor.dtype == tensors[0].dtype and _is_native(tensor) for tensor in tensors)


def _is_native(tensor: paddle.Tensor) -> bool:
    """What is not contiguous would be copied on the way in, and the copy written."""
    return tensor.dtype in NATIVE_DTYPES and tensor.place.is_cpu_place() and tensor.is_contiguous()
