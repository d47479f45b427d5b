"""Makes `ernie45_checkpoint/`: folders as PaddleFormers saves ERNIE 4.5, and what transformers computes from them.

In two environments, as the two do not go together:

    pip install paddlepaddle==3.3.1 paddleformers==1.2.0 'pyarrow<21'
    python tests/golden/make_ernie45_checkpoint.py save
    pip install -e ".[parity]"
    python tests/golden/make_ernie45_checkpoint.py compute

`moe/` is sharded, with an index, and has a prediction block; `dense/` is one file. `expected.npz` has ids, logits and
the loss in float32. Checked on the way: the dense logits are PaddleFormers' own too (its mixture of experts does not
run on a CPU), and what transformers saves has the names and values that PaddleFormers gave it.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "ernie45_checkpoint"
VOCABULARY, BATCH, SEQ = 320, 2, 17
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=500_000.0,
    rms_norm_eps=1e-5,
    use_bias=False,
    tie_word_embeddings=True,
    fuse_rms_norm=False,
)
EXPERTS = dict(
    num_hidden_layers=3,
    moe_num_experts=8,
    moe_k=3,
    moe_intermediate_size=12,
    moe_num_shared_experts=2,
    moe_layer_start_index=1,
    num_nextn_predict_layers=1,
)
IDS = np.random.default_rng(1).integers(3, VOCABULARY, [BATCH, SEQ])


def save() -> None:
    """With PaddleFormers."""
    import paddle
    from paddleformers.transformers import (
        Ernie4_5_MoeConfig,
        Ernie4_5_MoeForCausalLM,
        Ernie4_5Config,
        Ernie4_5ForCausalLM,
    )

    rng = np.random.default_rng(2)
    moe = Ernie4_5_MoeForCausalLM(Ernie4_5_MoeConfig(**SIZES, **EXPERTS))
    dense = Ernie4_5ForCausalLM(Ernie4_5Config(**SIZES, num_hidden_layers=2, _attn_implementation="eager"))
    for model in (moe, dense):
        for name, tensor in model.state_dict().items():
            values = rng.normal("norm" in name, 0.1 if name.endswith("correction_bias") else 0.2, tensor.shape)
            tensor.set_value(values.astype(np.float32))
    moe.save_pretrained(str(HERE / "moe"), max_shard_size="60KB")
    dense.save_pretrained(str(HERE / "dense"))
    dense.eval()
    logits = dense(paddle.to_tensor(IDS), return_dict=True).logits.numpy()
    np.save(HERE / "dense" / "paddleformers_logits.npy", logits)


def compute() -> None:
    """With transformers."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    for kind in ("moe", "dense"):
        model = AutoModelForCausalLM.from_pretrained(HERE / kind, attn_implementation="eager", dtype=torch.float32)
        ids = torch.from_numpy(IDS)
        with torch.no_grad():
            output = model(ids, labels=ids)
            logits = output.logits.numpy()
            loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        own = HERE / kind / "paddleformers_logits.npy"
        if own.exists():
            np.testing.assert_allclose(np.load(own), logits, rtol=0, atol=2e-5)
            own.unlink()
        np.savez(HERE / kind / "expected.npz", input_ids=IDS, logits=logits, loss=loss.numpy())
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            (again,) = Path(folder).glob("*.safetensors")
            with safe_open(again, "np") as file:
                given = {name: file.get_tensor(name) for name in file.keys()}
        for path in sorted((HERE / kind).glob("*.safetensors")):
            with safe_open(path, "np") as file:
                for name in file.keys():
                    if not name.startswith("model.mtp_"):
                        np.testing.assert_array_equal(given.pop(name), file.get_tensor(name), err_msg=name)
        assert not given, sorted(given)
        print(f"{kind}: loss {loss.item():.4f}")  # noqa: T201


if __name__ == "__main__":
    {"save": save, "compute": compute}[sys.argv[1]]()
