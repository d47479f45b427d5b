import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig
from ernie5.errors import UserError
from ernie5.inference.generate import generate_ids
from ernie5.integrations import paddlenlp
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import make_batch
from ernie5.model.checkpoint_names import to_folder_name
from ernie5.model.folder import from_pretrained, read_config
from ernie5.model.subnet import full_subnet
from tests.integrations.train_toy import NUM_STEPS, SAVE_STEPS, toy_data, train
from tests.tolerances import tolerance

ROOT = Path(__file__).parents[2]
HAS_PADDLENLP = importlib.util.find_spec("paddlenlp") is not None
needs_paddlenlp = pytest.mark.skipif(not HAS_PADDLENLP, reason="PaddleNLP is not installed: make test-paddlenlp")
# PaddleNLP and its dependencies warn when they are imported and when they train.
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = np.array([[45, 46, 47, 48, 49], [50, 51, 52, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LABELS = np.array([[-100, 46, 47, 48, 49], [50, 51, 52, -100, -100]])


def weights(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same_weights(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def core_logits(core, rows) -> np.ndarray:
    batch = make_batch(rows)
    layout = make_layout(batch.mask_rows, batch.position_ids, core.config.attention)
    return core.logits(core.hidden_states(batch.input_ids, layout, full_subnet(core.config))).numpy()


def nll(logits: np.ndarray, target: int) -> float:
    logits = logits.astype(np.float64)
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])


@pytest.fixture
def model(model_dir):
    loaded = paddlenlp.Ernie5PretrainedModel.from_pretrained(str(model_dir))
    loaded.eval()
    return loaded


@pytest.fixture(scope="module", params=["unified", "plain"])
def trained(request, model_dir, tmp_path_factory):
    """(format, output folder, trainer, balance callback) after a run of PaddleNLP's Trainer."""
    output_dir = tmp_path_factory.mktemp(request.param)
    with paddle.utils.unique_name.guard():
        return request.param, output_dir, *train(model_dir, output_dir, request.param)


# --- rows: no PaddleNLP needed


def test_rows_predict_the_next_real_token_of_a_row():
    rows = paddlenlp.causal_rows(IDS, MASK, None, LABELS)
    np.testing.assert_array_equal(rows.labels, [[46, 47, 48, 49, -100], [51, 52, -100, -100, -100]])
    np.testing.assert_array_equal(rows.loss_weight, [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


def test_rows_keep_the_next_id_where_a_label_is_ignored():
    labels = np.where(np.arange(5) < 3, -100, IDS)
    rows = paddlenlp.causal_rows(IDS, MASK, None, labels)
    np.testing.assert_array_equal(rows.labels[0], [46, 47, 48, 49, -100])
    np.testing.assert_array_equal(rows.loss_weight, [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])


def test_rows_do_not_predict_padding_that_the_labels_forgot():
    rows = paddlenlp.causal_rows(IDS, MASK, None, IDS)
    np.testing.assert_array_equal(rows.loss_weight[1], [1, 1, 0, 0, 0])


def test_rows_number_positions_from_the_first_real_token():
    left = paddlenlp.causal_rows(IDS, MASK[:, ::-1])
    np.testing.assert_array_equal(left.position_ids[..., 0], [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    assert (left.position_ids == left.position_ids[..., :1]).all()


def test_rows_refuse_a_mask_of_another_shape():
    with pytest.raises(UserError, match=r"attention_mask has the shape \[2, 1, 5\]: give \[batch, seq\]"):
        paddlenlp.causal_rows(IDS, MASK[:, None])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_no_logit(core, side):
    alone = core_logits(core, paddlenlp.causal_rows(IDS[1:, :3]))
    pad = [(0, 0), (0, 2) if side == "right" else (2, 0)]
    padded = core_logits(core, paddlenlp.causal_rows(np.pad(IDS[1:, :3], pad), np.pad(MASK[1:, :3], pad)))
    padded = padded[:, :3] if side == "right" else padded[:, 2:]
    np.testing.assert_allclose(padded, alone, **tolerance("float32"))


# --- importing


def test_importing_the_module_does_not_import_paddlenlp():
    program = "import sys, ernie5.integrations.paddlenlp; sys.exit('paddlenlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT).returncode == 0


def test_without_paddlenlp_the_message_says_what_to_install():
    program = "import sys; sys.modules['paddlenlp'] = None; from ernie5.integrations.paddlenlp import Ernie5Tokenizer"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True)
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ernie5.errors.UserError: PaddleNLP cannot be imported")
    assert last_line.endswith("pip install 'ernie5[paddlenlp]'")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Ernie6'"):
        _ = paddlenlp.Ernie6


# --- configuration


@needs_paddlenlp
def test_config_holds_the_settings_of_the_model_config(core):
    config = paddlenlp.Ernie5PretrainedConfig.from_model_config(core.config, pad_token_id=0)
    assert (config.num_attention_heads, config.num_experts, config.pad_token_id) == (4, 8, 0)
    assert config.model_config() == core.config


@needs_paddlenlp
def test_config_folder_is_read_by_both(core, tmp_path):
    paddlenlp.Ernie5PretrainedConfig.from_model_config(core.config, eos_token_id=3).save_pretrained(tmp_path)
    assert read_config(tmp_path) == core.config
    again = paddlenlp.Ernie5PretrainedConfig.from_pretrained(str(tmp_path))
    assert again.model_config() == core.config
    assert again.eos_token_id == 3


@needs_paddlenlp
def test_config_with_an_unknown_key_is_refused(core, tmp_path):
    config = paddlenlp.Ernie5PretrainedConfig.from_model_config(core.config)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_expert": 3}))
    with pytest.raises(UserError, match="num_expert"):
        paddlenlp.Ernie5PretrainedConfig.from_pretrained(str(tmp_path))


@needs_paddlenlp
def test_a_folder_that_is_not_there_is_named_without_asking_the_net(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config.json: cannot be read \(No such file"):
        paddlenlp.Ernie5PretrainedModel.from_pretrained(str(tmp_path / "nowhere"))


# --- model


@needs_paddlenlp
def test_parameters_have_the_names_of_the_folder(model, core):
    assert set(model.state_dict()) == {to_folder_name(name) for name in core.state_dict()}
    assert {name for name, _ in model.named_parameters()} == {to_folder_name(n) for n, _ in core.named_parameters()}


@needs_paddlenlp
def test_a_loaded_folder_gives_equal_logits(model, core):
    logits = model(paddle.to_tensor(IDS), attention_mask=paddle.to_tensor(MASK))
    np.testing.assert_array_equal(logits.numpy(), core_logits(core, paddlenlp.causal_rows(IDS, MASK)))


@needs_paddlenlp
def test_evaluation_loss_is_the_mean_over_the_labels(model):
    loss, logits = model(paddle.to_tensor(IDS), paddle.to_tensor(MASK), labels=paddle.to_tensor(LABELS))
    targets = [(row, i, LABELS[row, i + 1]) for row in range(2) for i in range(4) if LABELS[row, i + 1] != -100]
    expected = np.mean([nll(logits[row, i].numpy(), target) for row, i, target in targets])
    assert len(targets) == 6
    np.testing.assert_allclose(float(loss), expected, **tolerance("float32"))


@needs_paddlenlp
def test_training_loss_adds_multi_token_prediction_with_its_weight(model_dir):
    losses = []
    for weight in (0.0, 1.0, 2.0):
        model = paddlenlp.Ernie5PretrainedModel.from_pretrained(str(model_dir), mtp_loss_weight=weight)
        model.train()
        loss, logits = model(paddle.to_tensor(IDS), paddle.to_tensor(MASK), labels=paddle.to_tensor(LABELS))
        assert logits is None
        losses.append(float(loss))
    assert losses[1] > losses[0] + 1  # about log(vocabulary) more
    np.testing.assert_allclose(losses[2] - losses[1], losses[1] - losses[0], rtol=1e-4)


@needs_paddlenlp
def test_a_batch_without_labels_to_learn_has_the_loss_zero(model):
    loss, _ = model(paddle.to_tensor(IDS), labels=paddle.full_like(paddle.to_tensor(IDS), -100))
    assert float(loss) == 0


@needs_paddlenlp
def test_a_saved_folder_is_loaded_by_ours(model, core, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert_same_weights(weights(from_pretrained(tmp_path)), weights(core))


@needs_paddlenlp
def test_a_folder_that_lacks_weights_is_refused(model, tmp_path):
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "model.norm.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match="weights of another model .model.norm.weight"):
        paddlenlp.Ernie5PretrainedModel.from_pretrained(str(tmp_path))


@needs_paddlenlp
def test_the_classes_can_be_pickled():
    assert pickle.loads(pickle.dumps(paddlenlp.Ernie5PretrainedModel)) is paddlenlp.Ernie5PretrainedModel


@needs_paddlenlp
def test_auto_classes_read_the_folder_once_registered(model_dir):
    from paddlenlp.transformers import AutoConfig, AutoTokenizer

    paddlenlp.register_auto_classes()
    assert type(AutoConfig.from_pretrained(str(model_dir))) is paddlenlp.Ernie5PretrainedConfig
    assert type(AutoTokenizer.from_pretrained(str(model_dir))) is paddlenlp.Ernie5Tokenizer


@needs_paddlenlp
@pytest.mark.parametrize("mask", ["given", "found by PaddleNLP"])
def test_greedy_generation_of_a_padded_batch_equals_ours(model, model_dir, mask):
    tokenizer = paddlenlp.Ernie5Tokenizer.from_pretrained(str(model_dir), padding_side="left")
    prompts = ["the cat sat", "the", "Ein Hund, zwei"]
    batch = tokenizer(prompts, padding=True, return_tensors="pd")
    assert (batch["attention_mask"].numpy() == 0).any()
    if mask != "given":
        del batch["attention_mask"]
    ids, _ = model.generate(**batch, max_new_tokens=4, decode_strategy="greedy_search", eos_token_id=-1)
    greedy = GenerationConfig(max_new_tokens=4, temperature=0.0)
    ours = generate_ids(model.core, [tokenizer(prompt)["input_ids"] for prompt in prompts], greedy, eos_id=None)
    np.testing.assert_array_equal(ids.numpy(), np.stack(list(ours), axis=1))


@needs_paddlenlp
def test_lora_trains_the_adapters_alone(model):
    from paddlenlp.peft import LoRAConfig, LoRAModel

    lora = LoRAModel(model, LoRAConfig(target_modules=[".*q_proj.*", ".*v_proj.*"], r=4, lora_alpha=8))
    lora.mark_only_lora_as_trainable()
    lora.train()
    loss, _ = lora(input_ids=paddle.to_tensor(IDS), labels=paddle.to_tensor(IDS))
    loss.backward()
    with_gradient = [name for name, parameter in lora.named_parameters() if parameter.grad is not None]
    assert len(with_gradient) == 3 * 2 * 2  # blocks, the prediction block among them; q and v; A and B
    assert all("lora_" in name for name in with_gradient)


# --- Trainer


@needs_paddlenlp
def test_callback_refuses_several_processes():
    with pytest.raises(UserError, match="sees the load of one process, but there are 2"):
        paddlenlp.ExpertBalanceCallback().on_train_begin(SimpleNamespace(world_size=2), None, None)


@needs_paddlenlp
@pytest.mark.slow
def test_trainer_lowers_the_loss(trained, core):
    _, _, trainer, _ = trained
    rows = [example["input_ids"] for example in toy_data()]
    losses = [
        nll(logits, target)
        for row in rows
        for logits, target in zip(core_logits(core, paddlenlp.causal_rows(np.array([row])))[0], row[1:], strict=False)
    ]
    assert trainer.evaluate()["eval_loss"] < np.mean(losses) - 1


@needs_paddlenlp
@pytest.mark.slow
def test_callback_moves_the_bias_of_every_router(trained, core):
    _, _, trainer, callback = trained
    for layer_id, router in trainer.model.balance.routers.items():
        steps = (router.expert_bias.numpy() - initial_bias(core, layer_id)) / callback.speed
        np.testing.assert_allclose(steps, steps.round(), atol=1e-3)  # whole steps of `speed`, one for each update
        assert 0 < np.abs(steps).max() <= NUM_STEPS
    # 8 rows in two micro-batches, 2 experts a token: both are counted
    assert all(sum(load) >= 8 * 6 * 2 for load in callback.metrics.load)


def initial_bias(core, layer_id: int) -> np.ndarray:
    block = core.mtp.block if layer_id == core.config.num_hidden_layers else core.decoder.layers[layer_id]
    return block.mlp.gate.expert_bias.numpy()


@needs_paddlenlp
@pytest.mark.slow
def test_trainer_resumes_in_a_fresh_process_as_if_never_stopped(trained, model_dir, tmp_path):
    checkpoint_format, output_dir, trainer, _ = trained
    checkpoint = output_dir / f"checkpoint-{SAVE_STEPS}"
    command = [sys.executable, "-m", "tests.integrations.train_toy", model_dir, tmp_path, checkpoint_format, checkpoint]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert not (tmp_path / f"checkpoint-{SAVE_STEPS}").exists()
    resumed = paddlenlp.Ernie5PretrainedModel.from_pretrained(str(tmp_path / f"checkpoint-{NUM_STEPS}"))
    expected = weights(trainer.model)
    for name, tensor in weights(resumed).items():  # two processes differ in the last bit at times
        np.testing.assert_allclose(tensor, expected[name], **tolerance("float32"), err_msg=name)


@needs_paddlenlp
@pytest.mark.slow
def test_a_checkpoint_of_the_trainer_becomes_our_folder(trained, tmp_path):
    checkpoint_format, output_dir, trainer, _ = trained
    folder = output_dir / f"checkpoint-{NUM_STEPS}"
    if checkpoint_format == "plain":
        paddlenlp.Ernie5PretrainedModel.from_pretrained(str(folder)).save_pretrained(tmp_path)
        folder = tmp_path
    ours = {to_folder_name(name): value for name, value in weights(from_pretrained(folder)).items()}
    assert_same_weights(ours, weights(trainer.model))


# --- guide


@needs_paddlenlp
@pytest.mark.slow
def test_the_code_of_the_guide_runs(model_dir, tmp_path):
    guide = (ROOT / "docs/guides/paddlenlp.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "runs/pydoc").mkdir(parents=True)
    (tmp_path / "runs/pydoc/model").symlink_to(model_dir)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(blocks)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "runs/finetuned/model/model.safetensors").exists()
