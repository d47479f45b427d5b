"""Run as a program: the losses and gradients of one step, of a model that processes share, put together again.

python one_step.py COUNT CASE FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

ROWS, SEQ, VOCAB = 4, 32, 64
PLAIN = {"tie_word_embeddings": False, "num_nextn_predict_layers": 0}
CASES = {  # processes, degrees, changes of the model, recompute
    "tensor, biases": (2, {"tensor": 2}, {"attention.use_bias": True}, "none"),
    "tensor, dense and shared": (2, {"tensor": 2}, {"moe.num_dense_layers": 1, "moe.num_shared_experts": 2}, "none"),
    "tensor, its own head": (2, {"tensor": 2}, PLAIN, "none"),
    "tensor, no experts": (2, {"tensor": 2}, {"moe.num_experts": 0}, "none"),
    "tensor and experts, recomputed": (2, {"tensor": 2, "expert": 2}, {"moe.num_shared_experts": 1}, "full"),
    "context, recomputed": (2, {"context": 2}, {}, "full"),
    "pipeline, its own head": (2, {"pipeline": 2}, PLAIN, "none"),
    "pipeline, its own head and a block": (2, {"pipeline": 2}, {"tie_word_embeddings": False}, "none"),
    "pipeline and experts, recomputed": (2, {"pipeline": 2}, {"moe.num_dense_layers": 2}, "full"),
    "sharding over three": (3, {"sharding": 3}, {}, "none"),
    "tensor, sharding": (4, {"tensor": 2, "sharding": 2}, {"attention.use_bias": True}, "none"),
    "pipeline, experts, sharding": (4, {"pipeline": 2, "expert": 2, "sharding": 2}, {}, "none"),
    "two cohorts": (4, {"sharding": 2}, {}, "none"),
}


def model_config(changes: dict):
    """A tiny model with changed settings, by dotted name."""
    from dataclasses import replace

    from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig

    parts = {
        "attention": AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        "moe": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    }
    top = {}
    for name, value in changes.items():
        part, _, key = name.rpartition(".")
        if part:
            parts[part] = replace(parts[part], **{key: value})
        else:
            top[key] = value
    sizes = {"name": "tiny", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    return ModelConfig(**(sizes | {"num_nextn_predict_layers": 1} | top), **parts)


def rows():
    """Packed rows of documents of many lengths."""
    from tests.sequences import packed_batch, random_documents

    lengths = [(9, 4, 1, 18), (32,), (1, 1, 30), (13, 19)]
    return packed_batch([random_documents(one, VOCAB) for one in lengths], length=SEQ)


def build(changes: dict, recompute: str):
    import numpy as np
    import paddle

    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.parallel.recompute import recompute_blocks

    model = Ernie5ForCausalLM(model_config(changes))
    rng = np.random.default_rng(5)
    for parameter in model.parameters():  # norms and biases too, or their pieces could not be told from each other
        parameter.set_value(rng.normal(scale=0.2, size=parameter.shape).astype("float32"))
    if recompute != "none":
        recompute_blocks(model)
    assert paddle.in_dynamic_mode()
    return model


def objective(losses):
    return losses.text + (0.0 if losses.mtp is None else 0.3 * losses.mtp)


def main(count: int, case: str, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle

        from ernie5.config.schema import ParallelConfig
        from ernie5.modality.batch import make_batch
        from ernie5.model.subnet import full_subnet
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import make_mesh
        from ernie5.parallel.parallelize import ParallelModel
        from ernie5.parallel.pieces import gather_to_first
        from ernie5.parallel.pipeline import Task

        _, degrees, changes, recompute = CASES[case]
        ranks, model = join(), build(changes, recompute)
        mesh = make_mesh(count, ParallelConfig(**degrees))
        parallel = ParallelModel(model, ranks, mesh, [2, 1] if mesh.pipeline == 2 else [3])
        total = []

        def counted(losses):
            total.append(float(objective(losses)))
            return objective(losses)

        own = parallel.share(rows())
        tasks = [Task(parallel.share_tokens(make_batch(part)), counted) for part in own.split(2)]
        parallel.forward_backward(tasks, full_subnet(model.config))
        parallel.sum_gradients()
        own = {id(one) for one in parallel.stepped.values()}
        assert all(one.grad is None for one in model.parameters() if id(one) not in own)
        gradients = {name: one.grad for name, one in parallel.stepped.items() if one.grad is not None}
        whole = gather_to_first(ranks, gradients, parallel.stepped_cuts)
        loss = ranks.summed(np.array([float(sum(total))]))
        squares = sum(
            float((one.grad.astype("float64") ** 2).sum()) for one in parallel.counted() if one.grad is not None
        )
        squares = ranks.summed(np.array([float(squares)]))
        if ranks.is_first:
            np.savez(folder / "found.npz", loss=loss, squares=squares, **whole)
        paddle.distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
