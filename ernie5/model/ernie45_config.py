"""The settings of the open ERNIE 4.5 text models, `config.json`, and ours; what one side does not have is refused."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ernie5.config.load import model_from_dict
from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.errors import UserError

MOE, DENSE = "ernie4_5_moe", "ernie4_5"  # model_type
MODEL_TYPES = (MOE, DENSE)
DEFAULT_THETA = 500_000.0  # of a config.json without one
DEFAULT_POSITIONS = 131_072  # longest text of the published models
_ARCHITECTURES = {MOE: "Ernie4_5_MoeForCausalLM", DENSE: "Ernie4_5ForCausalLM"}

_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
_NEEDED_EXPERTS = (
    *("moe_num_experts", "moe_k", "moe_intermediate_size", "moe_num_shared_experts"),
    "moe_layer_start_index",
)
_READ = {
    *(*_NEEDED, *_NEEDED_EXPERTS, "model_type", "num_key_value_heads", "head_dim", "initializer_range"),
    *("tie_word_embeddings", "rope_theta", "rope_parameters", "moe_layer_end_index"),
}
# What decides outputs, and the values at which this backbone has it.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_bias": (False, None),
    "attention_bias": (False, None),
    "use_rmsnorm": (True,),
    "rope_scaling": (None,),
    "rope_3d": (False, None),
    "compression_ratio": (1.0, None),
    "sliding_window": (None,),
    "moe_layer_interval": (1,),
    "moe_gate_act": ("softmax",),
    "scoring_func": ("softmax",),
    "moe_norm_gate_logits": (True,),
    "moe_use_hard_gate": (False, None),
    "moe_group_experts": (False, None),
    "multimodel_experts": (False, None),
    "use_moe": (True, None),
    "is_quantized": (False, None),
    "quantization_config": (None,),
}
# What decides how a model is trained, run or read as a file, and not what it computes.
_WITHOUT_MEANING = {
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "paddleformers_version"),
    *("paddlenlp_version", "_name_or_path", "name_or_path", "id2label", "label2id", "problem_type", "return_dict"),
    *("is_encoder_decoder", "chunk_size_feed_forward", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    *("max_position_embeddings", "max_sequence_length", "freq_allocation", "weight_share_add_bias", "moe_capacity"),
    *("moe_gate", "moe_norm_min", "moe_use_aux_free", "moe_group", "moe_dropout_prob", "moe_all_to_all_dropout"),
    *("moe_reverse_token_drop", "moe_group_orthogonal_loss", "moe_multimodal_dispatch_use_allgather"),
    *("moe_aux_loss_lambda", "moe_z_loss_lambda", "moe_orthogonal_loss_lambda", "moe_dense_experts_token_type_id"),
    *("global_aux_loss", "sinkhorn_2gate", "sinkhorn_temp", "enable_delay_scale_loss", "num_acc_steps"),
    *("ignored_index",),
    *("hidden_dropout_prob", "attention_dropout_prob", "attention_probs_dropout_prob", "token_balance_loss"),
    *("token_balance_seqlen", "micro_batch_size", "add_tail_layers", "pp_seg_method", "cachekv_quant", "dpo_config"),
    *("num_nextn_predict_layers", "multi_token_pred_lambda", "enable_mtp_magic_send", "mtp_loss_scaling_factor"),
    *("tensor_parallel_degree", "tensor_model_parallel_size", "sequence_parallel", "refined_recompute"),
    *("use_flash_attention", "use_sparse_flash_attn", "use_var_len_flash_attn", "use_sparse_head_and_loss_fn"),
    *("use_fused_head_and_loss_fn", "use_sliding_window", "max_window_layers", "layer_types"),
}
_WITHOUT_MEANING_PREFIXES = ("fuse_", "recompute", "use_recompute_", "router_", "output_")


def config_from_ernie45(values: Mapping[str, Any], name: str, source: str = "config.json") -> ModelConfig:
    """Their `config.json`, called `source` in messages -> our settings.

    Raises UserError for a setting that this backbone does not express, or that is not known.
    """
    _refuse_what_does_not_fit(values, source)
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    rope = values.get("rope_parameters") or {}  # `rope_theta` stood on the top level before transformers 5
    config = ModelConfig(
        name=name,
        vocab_size=values["vocab_size"],
        hidden_size=hidden,
        num_hidden_layers=values["num_hidden_layers"],
        intermediate_size=values["intermediate_size"],
        num_nextn_predict_layers=0,
        rms_norm_eps=values["rms_norm_eps"],
        initializer_range=values.get("initializer_range", 0.02),
        tie_word_embeddings=values.get("tie_word_embeddings", True),
        attention=AttentionConfig(
            num_attention_heads=heads,
            num_key_value_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or hidden // max(heads, 1),
            rope_theta=rope.get("rope_theta") or values.get("rope_theta") or DEFAULT_THETA,
        ),
        moe=_experts_from(values),
    )
    return model_from_dict(asdict(config), source)  # types and ranges


def config_to_ernie45(config: ModelConfig) -> dict[str, Any]:
    """The inverse: their `config.json`, but for what `config_from_ernie45` does not read.

    Raises UserError for what `Ernie4_5_MoeForCausalLM` does not have.
    """
    fixed = {
        "vision": (config.vision is not None, False),
        "audio": (config.audio is not None, False),
        "num_nextn_predict_layers": (config.num_nextn_predict_layers, 0),
        "attention.use_bias": (config.attention.use_bias, False),
        "moe.router_score": (config.moe.router_score, "softmax"),
        "moe.routed_scaling_factor": (config.moe.routed_scaling_factor, 1.0),
    }
    for key, (value, known) in fixed.items():
        if value != known:
            said = f"is {value!r}, where {known!r} fits" if "." in key or key.startswith("num") else "is there"
            raise UserError(f"model.{key} {said}: ERNIE 4.5 text models have no such part; convert a model without it")
    attention, moe = config.attention, config.moe
    model_type = MOE if moe.num_experts else DENSE
    values = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": attention.num_attention_heads,
        "num_key_value_heads": attention.num_key_value_heads,
        "head_dim": attention.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_bias": False,
        "num_nextn_predict_layers": 0,  # PaddleFormers takes 1 where it is not said
        "max_position_embeddings": DEFAULT_POSITIONS,
        "rope_theta": attention.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope_theta},
    }
    return values | ({} if model_type == DENSE else _experts_to(config))


def without_meaning(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` has beside the settings of the model and its files: ids of tokens, positions, classes."""
    other = _WITHOUT_MEANING - {"dtype", "torch_dtype", "num_nextn_predict_layers", "auto_map"}
    return {key: value for key, value in values.items() if key in other}


def _experts_from(values: Mapping[str, Any]) -> MoEConfig:
    if values["model_type"] == DENSE:
        return MoEConfig(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    return MoEConfig(
        num_experts=values["moe_num_experts"],
        num_experts_per_tok=values["moe_k"],
        moe_intermediate_size=values["moe_intermediate_size"],
        num_shared_experts=values["moe_num_shared_experts"],
        num_dense_layers=values["moe_layer_start_index"],
    )


def _experts_to(config: ModelConfig) -> dict[str, Any]:
    return {
        "moe_num_experts": config.moe.num_experts,
        "moe_k": config.moe.num_experts_per_tok,
        "moe_intermediate_size": config.moe.moe_intermediate_size,
        "moe_num_shared_experts": config.moe.num_shared_experts,
        "moe_layer_start_index": config.moe.num_dense_layers,
        "moe_layer_end_index": config.num_hidden_layers - 1,
        "moe_layer_interval": 1,
        "moe_use_aux_free": True,
    }


def _refuse_what_does_not_fit(values: Mapping[str, Any], source: str) -> None:
    model_type = values.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(f"{source}: model_type is {model_type!r}, but only {' and '.join(MODEL_TYPES)} are read")
    needed = _NEEDED + (_NEEDED_EXPERTS if model_type == MOE else ())
    if missing := [key for key in needed if key not in values]:
        raise UserError(f"{source}: {', '.join(missing)} is missing; copy the checkpoint again")
    for key in needed:
        if isinstance(values[key], bool) or not isinstance(values[key], float if key == "rms_norm_eps" else int):
            raise UserError(f"{source}: {key} is {values[key]!r}, but one number fits this backbone")
    rope = values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{source}: rope_parameters is {rope!r}, but an object of settings fits this backbone")
    last = values["num_hidden_layers"] - 1
    found = {key: (values[key], known) for key, known in _FIXED.items() if key in values}
    found["rope_type"] = (rope.get("rope_type", "default"), ("default",))
    found["moe_layer_end_index"] = (values.get("moe_layer_end_index", -1), (-1, last))
    for key, (value, known) in found.items():
        if value not in known:
            raise UserError(f"{source}: {key} is {value!r}, but only {known[0]!r} fits this backbone")
    for key in values:
        if key not in _READ | _WITHOUT_MEANING | _FIXED.keys() and not key.startswith(_WITHOUT_MEANING_PREFIXES):
            raise UserError(
                f"{source}: {key} is not known of ERNIE 4.5's text models; take it out if outputs do not depend on it"
            )
