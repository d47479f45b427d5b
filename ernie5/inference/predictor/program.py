"""One program, run by Paddle Inference."""

from collections.abc import Sequence
from pathlib import Path

import paddle

from ernie5.errors import Fault

_DELETES = "FLAGS_eager_delete_tensor_gb"  # below 0: memory is not freed on the way


class Program:
    """A pure function of tensors. Its outputs belong to the caller.

    Three settings of Paddle 3.3.1 are wrong for these programs and are not left to its defaults: oneDNN, which is on,
    computes another routing without a word; the outputs of a run are overwritten by the next one, so they are copied;
    and inputs of another dtype are taken as if they were of the right one, so they are refused.
    """

    def __init__(
        self, program: Path, weights: Path, inputs: Sequence[Sequence], threads: int = 1, frees_memory: bool = True
    ):
        """inputs: name, dtype and shape (-1: any) of each, in order. Fault if Paddle cannot load the program.

        frees_memory: of what is computed on the way, once it is no longer needed. A thread of Paddle does that and
        spins, which takes a tenth of a short step; without it the memory of the longest run so far is kept.
        """
        from paddle.inference import Config, create_predictor

        config = Config(str(program), str(weights))
        if paddle.is_compiled_with_cuda() and paddle.get_device().startswith("gpu"):
            config.enable_use_gpu(100, paddle.device.cuda.current_device() if paddle.device.cuda.device_count() else 0)
        else:
            config.disable_gpu()
        config.disable_mkldnn()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        try:
            self._predictor = create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:
            last = str(error).strip().splitlines()[-1]
            raise Fault(f"{program}: Paddle {paddle.__version__} cannot load it: {last}") from None
        self._path, self._frees_memory = program, frees_memory
        self._inputs = [(name, getattr(paddle, dtype), len(shape), list(shape)) for name, dtype, shape in inputs]
        found, expected = self._predictor.get_input_names(), [name for name, *_ in self._inputs]
        if found != expected:
            raise Fault(f"{program}: takes {found}, not {expected}: export the model again")

    def __call__(self, *inputs: paddle.Tensor) -> list[paddle.Tensor]:
        """The outputs for one tensor an input. Fault for tensors that are not those of the program."""
        if len(inputs) != len(self._inputs):
            raise Fault(f"{self._path}: takes {len(self._inputs)} inputs, not {len(inputs)}")
        for tensor, (name, dtype, rank, shape) in zip(inputs, self._inputs, strict=True):
            if tensor.dtype != dtype or tensor.ndim != rank:  # Paddle finds wrong sizes itself
                found, expected = (str(one).removeprefix("paddle.") for one in (tensor.dtype, dtype))
                raise Fault(f"{self._path}: {name} is {found} {list(tensor.shape)}, expected {expected} {shape}")
        return [output.clone() for output in self._run(list(inputs))]

    def _run(self, inputs: list[paddle.Tensor]) -> list[paddle.Tensor]:
        if self._frees_memory:
            return self._predictor.run(inputs)
        before = paddle.get_flags(_DELETES)  # read when a program runs for the first time
        paddle.set_flags({_DELETES: -1.0})
        try:
            found = self._predictor.run(inputs)
        finally:
            paddle.set_flags(before)
        self._frees_memory = True  # the program has read it
        return found
