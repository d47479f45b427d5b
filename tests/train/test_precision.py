"""Where a run computes, and in what; the arithmetic in bfloat16 needs a device that has it."""

import paddle
import pytest

from ernie5.config.schema import OptimizerConfig, TrainConfig
from ernie5.errors import UserError
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.train.optimizer import build_optimizer
from ernie5.train.precision import cast_parameters, set_device

on_cpu = pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="about the CPU build of Paddle")


@on_cpu
def test_auto_is_float32_on_the_cpu():
    assert set_device(TrainConfig()) == "float32"


@on_cpu
@pytest.mark.parametrize("setting", [{"device": "gpu"}, {"precision": "bfloat16"}])
def test_what_the_machine_lacks_is_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        set_device(TrainConfig(**setting))


def test_the_large_matrices_are_cast_and_routers_and_norms_are_not(tiny_model_config):
    model = Ernie5ForCausalLM(tiny_model_config)
    cast_parameters(model, "bfloat16")
    for name, parameter in model.named_parameters():
        kept = "norm" in name or ".gate.weight" in name
        assert parameter.dtype == (paddle.float32 if kept else paddle.bfloat16), name
    assert all(buffer.dtype == paddle.float32 for buffer in model.buffers())


def test_float32_master_weights_are_kept_for_what_was_cast(tiny_model_config):
    model = Ernie5ForCausalLM(tiny_model_config)
    assert not build_optimizer(model, OptimizerConfig())._multi_precision
    cast_parameters(model, "bfloat16")
    assert build_optimizer(model, OptimizerConfig())._multi_precision


@pytest.mark.gpu
def test_a_bfloat16_step_changes_the_master_weights(tiny_model_config):
    from ernie5.modality.batch import make_batch
    from ernie5.model.subnet import full_subnet
    from tests.sequences import packed_batch, random_documents

    model = Ernie5ForCausalLM(tiny_model_config)
    cast_parameters(model, "bfloat16")
    optimizer = build_optimizer(model, OptimizerConfig())
    optimizer.set_lr(1e-3)
    batch = make_batch(packed_batch([random_documents([16], tiny_model_config.vocab_size)]))
    model(batch, full_subnet(tiny_model_config)).text.backward()
    optimizer.step()
    assert all(master.dtype == paddle.float32 for master in optimizer._master_weights.values())
