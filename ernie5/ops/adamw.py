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
        for (dtype, rate_scale, decay), parameters in kinds.items():
            rate = np.float32(self.get_lr()) * np.float32(rate_scale)
            settings = float(rate), self._beta1, self._beta2, self._epsilon, decay
            backend.call("adamw", [self._table(parameters)], dtype == paddle.bfloat16, *settings)
            for one in parameters:
                one._bump_inplace_version()  # the autograd engine refuses what was computed from the old values

    def _is_plain(self) -> bool:
        """Whether nothing is asked for that the compiled step lacks."""
        has_groups = isinstance(self._parameter_list[0], dict)
        by_name = self._apply_decay_param_fun is not None
        return by_name and not has_groups and self._grad_clip is None and not self._amsgrad

    def _table(self, parameters: list[paddle.Tensor]) -> paddle.Tensor:
        """int64 [8, parameters]: where values, gradients, master weights and state lie, and how many numbers each has.

        Addresses, because lists of tensors cost an operator half as much again as the step of 800 tensors itself.
        """
        masters = [self._master_weights.get(one.name, one) for one in parameters]
        names = self._moment1_acc_str, self._moment2_acc_str, self._beta1_pow_acc_str, self._beta2_pow_acc_str
        keys = [master.name for master in masters]
        states = [[state[key] for key in keys] for state in map(self._accumulators.get, names)]
        lists = [parameters, [one.grad for one in parameters], masters, *states]
        rows = [[tensor.data_ptr() for tensor in tensors] for tensors in lists]
        return paddle.to_tensor(np.array([*rows, [one.size for one in parameters]], np.int64))


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
    gradient = parameter.grad
    return gradient.dtype == parameter.dtype and _is_native(parameter) and gradient.is_contiguous()


def _are_alike(tensors: Sequence[paddle.Tensor]) -> bool:
    return all(tensor.dtype == tensors[0].dtype and _is_native(tensor) for tensor in tensors)


def _is_native(tensor: paddle.Tensor) -> bool:
    return tensor.dtype in NATIVE_DTYPES and tensor.place.is_cpu_place() and tensor.is_contiguous()
