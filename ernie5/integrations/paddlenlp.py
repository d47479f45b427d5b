"""The model under PaddleNLP's interfaces: its configuration, model, tokenizer and Trainer, on the same model folder.

    from ernie5.integrations.paddlenlp import Ernie5PretrainedModel, Ernie5Tokenizer, ExpertBalanceCallback

`Ernie5PretrainedConfig`, `Ernie5PretrainedModel`, `Ernie5Tokenizer` and `ExpertBalanceCallback` derive from PaddleNLP's
classes, so they are made when first asked for; importing this module does not import PaddleNLP (which takes seconds).
What they do is in the adapter classes below, what works in docs/guides/paddlenlp.md.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from os import PathLike
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ernie5.config.load import model_from_dict
from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig, StageConfig
from ernie5.errors import UserError
from ernie5.integrations.paddlenlp_tokenizer import TokenizerAdapter
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import Batch, make_batch
from ernie5.modality.unified import IGNORE_INDEX, TokenKind, UnifiedSequence
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import ARCHITECTURE, MODEL_TYPE, flat_config, nested_config, read_config
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.train.balance import ExpertBalance, LoadMetrics

_SETTINGS = {
    field.name: field
    for kind in (ModelConfig, AttentionConfig, MoEConfig)
    for field in dataclasses.fields(kind)
    if field.name not in ("attention", "moe")
}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class ConfigAdapter:
    """ModelConfig as a PretrainedConfig: the settings are attributes on one level, as `config.json` has them."""

    model_type = MODEL_TYPE

    def __init__(self, **kwargs: Any):
        defaults = {name: f.default for name, f in _SETTINGS.items() if f.default is not dataclasses.MISSING}
        super().__init__(**(defaults | kwargs))

    @classmethod
    def from_model_config(cls, config: ModelConfig, **kwargs: Any) -> "ConfigAdapter":
        """kwargs are PaddleNLP's own settings, such as `pad_token_id`."""
        return cls(**flat_config(config), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """The configuration of a model folder. UserError: there is none, a key it does not know, a wrong value."""
        read_config(pretrained_model_name_or_path)  # else PaddleNLP looks for the name on the net, and takes any key
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def model_config(self) -> ModelConfig:
        """The typed configuration. UserError: a setting is missing or wrong."""
        return model_from_dict(nested_config({name: getattr(self, name) for name in _SETTINGS if hasattr(self, name)}))

    def to_json_string(self, use_diff: bool = True, saving_file: bool = False) -> str:
        """A saved file has just what `ernie5.model.folder` reads; what is shown has PaddleNLP's settings too."""
        if not saving_file:
            return super().to_json_string(use_diff=use_diff)
        about = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, "dtype": self.dtype}
        token_ids = {name: getattr(self, name) for name in _TOKEN_IDS if getattr(self, name) is not None}
        return json.dumps(about | token_ids | flat_config(self.model_config()), indent=2) + "\n"


class ModelAdapter:
    """Ernie5ForCausalLM as a PretrainedModel, whose parameters have the names of the model folder.

    `core` is the model itself, for our own generation and evaluation; the parameters are shared. Tensor and pipeline
    parallelism are not supported.
    """

    # Routing is in float32 whatever the model's dtype; PaddleNLP looks for these in the names.
    _keep_in_fp32_modules = ("mlp.gate.",)

    def __init__(self, config: ConfigAdapter, mtp_loss_weight: float = StageConfig.mtp_loss_weight):
        super().__init__(config)
        self.mtp_loss_weight = mtp_loss_weight
        core = Ernie5ForCausalLM(config.model_config())
        # Past nn.Layer's registration: its parts are registered below, under the names that the folder has.
        self.__dict__["core"] = core
        if core.config.vision is not None:
            raise UserError(
                "model.vision: the PaddleNLP adapter takes models of text alone: train this one with tools/train.py"
            )
        self.model = nn.Layer()
        self.model.embed_tokens = core.text.embed_tokens
        self.model.layers = core.decoder.layers
        self.model.norm = core.decoder.norm
        if core.mtp is not None:
            self.model.mtp = nn.LayerList([core.mtp])
        if core.text.lm_head is not None:
            self.lm_head = core.text.lm_head
        self.balance = ExpertBalance(core)

    def forward(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        position_ids: paddle.Tensor | None = None,
        labels: paddle.Tensor | None = None,
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor | None]:
        """Without labels: logits [batch, seq, vocab]. With labels: (mean loss in nats a token, logits).

        While training, the loss includes multi-token prediction and the logits are None, because nothing reads them;
        the load of the experts is collected for `ExpertBalanceCallback`. input_ids and labels int [batch, seq]; labels
        are not shifted: position i + 1 holds the target of position i, and -100 no target. attention_mask [batch, seq]:
        0 is padding, on either side. position_ids [batch, seq], or [batch, seq, 3] for (t, h, w).
        """
        subnet = full_subnet(self.core.config)
        batch = make_batch(causal_rows(*map(_to_numpy, (input_ids, attention_mask, position_ids, labels))))
        if labels is not None and self.training:
            return self._training_loss(batch, subnet), None
        layout = make_layout(batch.mask_rows, batch.position_ids, self.core.config.attention)
        hidden_states = self.core.hidden_states(batch.input_ids, layout, subnet)
        logits = self.core.logits(hidden_states)
        if labels is None:
            return logits
        loss = self.core.text.loss(hidden_states, batch.labels, batch.loss_weight)
        return loss / _at_least_one(batch.loss_weight), logits

    def _training_loss(self, batch: Batch, subnet: Subnet) -> paddle.Tensor:
        losses = self.core(batch, subnet)
        self.balance.collect(losses.tokens_per_expert)
        loss = losses.text / _at_least_one(batch.loss_weight)
        if losses.mtp is not None and self.mtp_loss_weight:
            loss = loss + losses.mtp * self.mtp_loss_weight / _at_least_one(batch.mtp_loss_weight)
        return loss

    @classmethod
    def _load_pretrained_model(cls, *args: Any, **kwargs: Any) -> tuple:
        """PaddleNLP's step of `from_pretrained`, which only logs what did not fit: a model half random is an error."""
        model, missing, unexpected, mismatched = super()._load_pretrained_model(*args, **kwargs)
        names = [*missing, *unexpected, *mismatched]
        if names:
            source = kwargs.get("pretrained_model_name_or_path", "the folder")
            raise UserError(f"{source}: weights of another model ({names[0]} does not fit); name the right folder")
        return model, missing, unexpected, mismatched

    def save_pretrained(self, save_dir: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Writes a folder of safetensors that `ernie5.model.folder.from_pretrained` reads too.

        The Trainer's plain checkpoints, which name a `save_function`, stay `model_state.pdparams`: its resume reads
        nothing else. With `unified_checkpoint=True` the Trainer writes safetensors.
        """
        kwargs.setdefault("safe_serialization", "save_function" not in kwargs)
        super().save_pretrained(save_dir, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: paddle.Tensor, attention_mask: paddle.Tensor | None = None, **kwargs: Any
    ) -> dict[str, paddle.Tensor | None]:
        """PaddleNLP's `generate` reads the whole sequence again for each token; our own, on `core`, keeps a cache."""
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = (
                attention_mask[:, 0, -1] == 0
            )  # what `generate` makes when given none: 0, or -inf on padding
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens


class BalanceCallbackAdapter:
    """A TrainerCallback that moves the routers' biases towards an even load after every optimizer step.

    `speed` is the step of the bias (`expert_bias_speed` of a stage); `metrics` has the load of the last step.
    """

    def __init__(self, speed: float = StageConfig.expert_bias_speed):
        self.speed = speed
        self.metrics: LoadMetrics | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """UserError: several processes, whose loads would have to be summed first."""
        if args.world_size > 1:
            raise UserError(
                f"ExpertBalanceCallback sees the load of one process, but there are {args.world_size}: start just one"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.metrics = model.balance.update(full_subnet(model.core.config), self.speed)


def causal_rows(
    input_ids: np.ndarray,
    attention_mask: np.ndarray | None = None,
    position_ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> UnifiedSequence:
    """What PaddleNLP and Hugging Face call a batch -> rows of the unified sequence, one document in each.

    Arrays as `ModelAdapter.forward` has them. Padding sees only itself and is neither seen nor predicted. Where labels
    are IGNORE_INDEX the next id still stands as the target, with weight 0, because multi-token prediction embeds it.
    """
    batch, seq = input_ids.shape
    if attention_mask is not None and attention_mask.shape != (batch, seq):
        raise UserError(
            f"attention_mask has the shape {list(attention_mask.shape)}: give [batch, seq], here [{batch}, {seq}]"
        )
    real = np.ones([batch, seq], bool) if attention_mask is None else attention_mask.astype(bool)
    place = np.arange(seq, dtype=np.int32)
    end = np.where(real, place + 1, 0).max(axis=1, keepdims=True)  # [batch, 1], behind the last real token
    mask_rows = np.stack(np.broadcast_arrays(np.where(real, end, place + 1), place), axis=-1).astype(np.int32)
    if position_ids is None:
        position_ids = np.maximum(real.cumsum(axis=1) - 1, 0)
    if position_ids.ndim == 2:
        position_ids = np.repeat(position_ids[..., None], 3, axis=-1)
    followed = real[:, :-1] & real[:, 1:]
    targets = np.full([batch, seq], IGNORE_INDEX, np.int64)
    targets[:, :-1] = np.where(followed, input_ids[:, 1:], IGNORE_INDEX)
    weight = np.zeros([batch, seq], np.float32)
    if labels is not None:
        counts = followed & (labels[:, 1:] != IGNORE_INDEX)
        targets[:, :-1] = np.where(counts, labels[:, 1:], targets[:, :-1])
        weight[:, :-1] = counts
    return UnifiedSequence(
        input_ids=input_ids.astype(np.int64),
        token_kind=np.where(real, TokenKind.TEXT, TokenKind.PADDING).astype(np.int8),
        position_ids=position_ids.astype(np.float32),
        labels=targets,
        loss_weight=weight,
        mask_rows=mask_rows,
        document_ids=np.where(real, 0, -1).astype(np.int32),
    )


def register_auto_classes() -> None:
    """Makes PaddleNLP's AutoConfig and AutoTokenizer read our folders. Its AutoModel classes cannot be extended."""
    transformers, made = _paddlenlp().transformers, _classes()
    transformers.AutoConfig.register(MODEL_TYPE, made["Ernie5PretrainedConfig"], exist_ok=True)
    transformers.AutoTokenizer.register(
        made["Ernie5PretrainedConfig"], slow_tokenizer_class=made["Ernie5Tokenizer"], exist_ok=True
    )


def __getattr__(name: str) -> type:
    """The four classes, made from PaddleNLP's when first asked for. UserError: PaddleNLP is missing or cannot load."""
    if name not in _BUILDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _classes()[name]


def _make_config(bases: SimpleNamespace, made: dict[str, type]) -> type:
    class Ernie5PretrainedConfig(ConfigAdapter, bases.transformers.PretrainedConfig):
        __doc__ = ConfigAdapter.__doc__

    return Ernie5PretrainedConfig


def _make_model(bases: SimpleNamespace, made: dict[str, type]) -> type:
    class Ernie5PretrainedModel(ModelAdapter, bases.transformers.PretrainedModel):
        __doc__ = ModelAdapter.__doc__
        config_class = made["Ernie5PretrainedConfig"]

    return Ernie5PretrainedModel


def _make_tokenizer(bases: SimpleNamespace, made: dict[str, type]) -> type:
    class Ernie5Tokenizer(TokenizerAdapter, bases.transformers.PretrainedTokenizer):
        __doc__ = TokenizerAdapter.__doc__
        # Here once more, because PaddleNLP sets the special tokens only around an __init__ of the class itself.
        __init__ = TokenizerAdapter.__init__

    return Ernie5Tokenizer


def _make_callback(bases: SimpleNamespace, made: dict[str, type]) -> type:
    class ExpertBalanceCallback(BalanceCallbackAdapter, bases.trainer.TrainerCallback):
        __doc__ = BalanceCallbackAdapter.__doc__

    return ExpertBalanceCallback


_BUILDERS: dict[str, Callable[[SimpleNamespace, dict[str, type]], type]] = {
    "Ernie5PretrainedConfig": _make_config,
    "Ernie5PretrainedModel": _make_model,
    "Ernie5Tokenizer": _make_tokenizer,
    "ExpertBalanceCallback": _make_callback,
}


@functools.cache
def _classes() -> dict[str, type]:
    bases, made = _paddlenlp(), {}
    for name, build in _BUILDERS.items():
        made[name] = build(bases, made)
        made[name].__module__, made[name].__qualname__ = __name__, name  # so that pickle finds them
    return made


def _paddlenlp() -> SimpleNamespace:
    try:
        from paddlenlp import trainer, transformers
    except ImportError as error:
        raise UserError(f"PaddleNLP cannot be imported ({error}): pip install 'ernie5[paddlenlp]'") from error
    return SimpleNamespace(trainer=trainer, transformers=transformers)


def _to_numpy(tensor: paddle.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()


def _at_least_one(weight: paddle.Tensor) -> float:
    """The sum of the weights; a batch without a target has the loss 0, not NaN."""
    return max(float(weight.sum()), 1.0)
