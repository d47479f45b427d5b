"""Makes `ernie45_moe_tied.safetensors` and `ernie45_moe_untied.safetensors`: what transformers' ERNIE 4.5 computes.

    pip install -e ".[parity]" && python tests/golden/make_ernie45_moe.py

Each file holds a tiny random Ernie4_5_MoeForCausalLM (`weights.*`), its input and labels, logits, loss and the gradient
of every parameter (`gradients.*`), in float32 from a computation in float32; the config stands in the metadata.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

HERE = Path(__file__).parent
BATCH, SEQ = 2, 17
MIN_MARGIN = 1e-3  # between the last expert chosen and the first left out: no rounding moves a choice


def tiny_config(tied: bool) -> Ernie4_5_MoeConfig:
    """A dense layer, then two routed ones with shared experts; grouped queries; more than one key-value head."""
    return Ernie4_5_MoeConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        moe_intermediate_size=12,
        moe_num_experts=8,
        moe_k=3,
        moe_num_shared_experts=2,
        moe_layer_start_index=1,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        use_bias=False,
        tie_word_embeddings=tied,
        pad_token_id=None,  # a padding row of the embedding would get no gradient
        attn_implementation="eager",
    )


@torch.no_grad()
def randomize(model: torch.nn.Module) -> None:
    """Weights large enough that every part of the model shows in the logits; norms and balancing biases too."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
        elif "e_score_correction_bias" in name:
            parameter.normal_(0.0, 0.1)
        else:
            parameter.normal_(0.0, 0.25)


def check_routing(model: Ernie4_5_MoeForCausalLM, input_ids: torch.Tensor) -> bool:
    """Whether biases change some choices and every choice is clear."""
    router_logits = model(input_ids, output_router_logits=True).router_logits
    changed = 0
    for layer, logits in zip(model.model.layers[1:], router_logits, strict=True):
        scores = logits.softmax(-1)
        biased = scores + layer.mlp.gate.moe_statics.e_score_correction_bias
        best = biased.sort(-1, descending=True).values
        top_k = model.config.moe_k
        if (best[:, top_k - 1] - best[:, top_k]).min() < MIN_MARGIN:
            return False
        plain, moved = (x.topk(top_k).indices.sort(-1).values for x in (scores, biased))
        changed += int((plain != moved).any(-1).sum())
    return changed >= BATCH * SEQ // 4


def make(tied: bool) -> None:
    """Writes one variant."""
    for seed in range(100):
        torch.manual_seed(seed)
        model = Ernie4_5_MoeForCausalLM(tiny_config(tied))
        randomize(model)
        input_ids = torch.randint(0, model.config.vocab_size, (BATCH, SEQ))
        if check_routing(model, input_ids):
            break
    else:
        raise SystemExit("no seed gives clear choices that the biases change")
    output = model(input_ids, labels=input_ids, output_router_logits=False)
    output.loss.backward()
    parameters = dict(model.named_parameters())
    tensors = {"input_ids": input_ids, "logits": output.logits.detach(), "loss": output.loss.detach().reshape(1)}
    tensors |= {f"weights.{name}": parameter.detach() for name, parameter in parameters.items()}
    tensors |= {f"gradients.{name}": p.grad for name, p in parameters.items() if p.grad is not None}
    path = HERE / f"ernie45_moe_{'tied' if tied else 'untied'}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(model.config.to_dict()), "seed": str(seed)})
    print(f"{path.name}: {path.stat().st_size} bytes, seed {seed}, loss {output.loss.item():.4f}")  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    for is_tied in (True, False):
        make(is_tied)
