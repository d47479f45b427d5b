"""Run as a program: what each process of a layout has of a model, keeps in a forward pass and sends in a step.

python sent_step.py COUNT CASE FOLDER
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

SEQ, ROWS = 256, 8  # of a batch; every row is one document
UNTIED = {"tie_word_embeddings": False}
EIGHT_LAYERS = {"num_hidden_layers": 8}
CASES = {  # processes, degrees, changes of the model
    "tensor": (2, {"tensor": 2}, {}),
    "tensor, a head of its own": (2, {"tensor": 2}, UNTIED),
    "context": (2, {"context": 2}, {}),
    "pipeline": (2, {"pipeline": 2}, {}),
    "pipeline, a head of its own": (2, {"pipeline": 2}, UNTIED),
    "sharding": (2, {"sharding": 2}, {}),
    "expert": (2, {"expert": 2}, {}),
    "tensor x 2, expert": (4, {"tensor": 2, "expert": 4}, {}),
    "pipeline, expert": (4, {"pipeline": 2, "expert": 2}, {}),
    "context, tensor": (4, {"context": 2, "tensor": 2}, {}),
    "context 4, expert": (4, {"context": 4, "expert": 4}, {}),
    "sharding 4": (4, {"sharding": 4}, {}),
    "sharding 2 of 4, expert": (4, {"sharding": 2, "expert": 2}, {}),
    "interleaved pipeline": (4, {"pipeline": 4, "virtual_stages": 2}, EIGHT_LAYERS),
    "context, tensor, sharding": (8, {"context": 2, "tensor": 2, "sharding": 2}, {}),
    "pipeline, tensor, expert, sharding": (8, {"pipeline": 2, "tensor": 2, "expert": 4, "sharding": 2}, {}),
}


def model_config(changes: dict | None = None):
    from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig

    sizes = {
        "name": "measured",
        "vocab_size": 512,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "intermediate_size": 128,
        "num_nextn_predict_layers": 1,
    }
    return ModelConfig(
        **sizes | (changes or {}),
        attention=AttentionConfig(num_attention_heads=8, num_key_value_heads=4, head_dim=16, use_bias=True),
        moe=MoEConfig(
            num_experts=16, num_experts_per_tok=3, moe_intermediate_size=64, num_shared_experts=1, num_dense_layers=1
        ),
    )


def build(config):
    """A model whose routers take all experts equally often: their columns are orthogonal, tokens go any way."""
    import numpy as np
    import paddle

    from ernie5.layers.router import Router
    from ernie5.model.ernie5 import Ernie5ForCausalLM

    paddle.seed(0)
    rng, model = np.random.default_rng(0), Ernie5ForCausalLM(config)
    model.text.embed_tokens.weight.set_value(rng.normal(size=[config.vocab_size, config.hidden_size]).astype("float32"))
    for layer in model.sublayers():
        if isinstance(layer, Router):
            columns = np.linalg.qr(rng.normal(size=layer.weight.shape))[0]
            layer.weight.set_value(columns.astype("float32"))
    return model


def counters(parallel, mesh) -> Callable[[], dict[str, int]]:
    """Bytes that this process has sent so far, by kind of group; "all" of them too."""
    from paddle.distributed import fleet

    from ernie5.layers.moe import MoE

    model, groups = parallel.model, {}
    if mesh.tensor > 1:
        groups["tensor"] = [fleet.get_hybrid_communicate_group().get_model_parallel_group()]
    if mesh.pipeline > 1:
        groups["pipeline"] = [fleet.get_hybrid_communicate_group().get_pipe_parallel_group()]
    if mesh.context > 1:
        groups["context"] = [next(iter(model.blocks().values())).self_attn.attend.group]
    if mesh.expert > 1:
        groups["expert"] = [layer.dispatcher.group for layer in model.sublayers() if isinstance(layer, MoE)][:1]
    groups["data"] = [group for one in parallel.replicas for group in one.groups]
    peers = next(iter(groups.values()))[0].process_group.peers

    def count() -> dict[str, int]:
        found = {kind: sum(one.process_group.bytes_sent for one in of_kind) for kind, of_kind in groups.items()}
        return found | {"all": sum(peers.bytes_sent.values())}

    return count


def watch_blocks(model) -> list[tuple[int, int]]:
    """(layer id, bytes allocated on its first entry), filled while the model works."""
    from paddle.base import core

    entries: list[tuple[int, int]] = []

    def watch(layer_id: int) -> Callable[..., None]:
        def note(*_) -> None:
            if layer_id not in dict(entries):
                entries.append((layer_id, core.host_memory_stat_current_value("Allocated", 0)))

        return note

    blocks = model.blocks()
    for layer_id in sorted(blocks.keys() - {model.config.num_hidden_layers}):  # before the prediction block are losses
        blocks[layer_id].register_forward_pre_hook(watch(layer_id))
    return entries


def main(count: int, case: str, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle

        from ernie5.config.schema import OptimizerConfig, ParallelConfig
        from ernie5.modality.batch import make_batch
        from ernie5.model.subnet import full_subnet
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import make_mesh
        from ernie5.parallel.parallelize import ParallelModel
        from ernie5.parallel.pipeline import Task
        from ernie5.planning.stages import layer_counts
        from ernie5.train.optimizer import build_optimizer
        from tests.sequences import packed_batch, random_documents

        _, degrees, changes = CASES[case]
        config, ranks, parallel_config = model_config(changes), join(), ParallelConfig(**degrees)
        mesh = make_mesh(count, parallel_config)
        pieces = mesh.pipeline * parallel_config.virtual_stages
        parallel = ParallelModel(build(config), ranks, mesh, layer_counts(config, pieces, SEQ))
        rows = parallel.share(packed_batch([random_documents([SEQ], config.vocab_size, seed) for seed in range(ROWS)]))
        tasks = [
            Task(parallel.share_tokens(make_batch(part)), lambda losses: losses.text + losses.mtp)
            for part in rows.split(1)
        ]
        optimizer = build_optimizer(parallel.model, OptimizerConfig(), parallel.stepped)
        optimizer.set_lr(1e-3)
        sent, entries = counters(parallel, mesh), watch_blocks(parallel.model)
        before = sent()
        parallel.forward_backward(tasks, full_subnet(config))
        parallel.sum_gradients()
        gradients = sum(one.grad.size for one in parallel.stepped.values() if one.grad is not None)
        optimizer.step()
        parallel.share_updates()
        after = sent()
        moments = [one for name, one in optimizer.state_dict().items() if name.endswith(("moment1_0", "moment2_0"))]
        found = {
            "sent": {kind: after[kind] - before[kind] for kind in after},
            "parameters": sum(one.size for one in parallel.model.parameters()),
            "gradients": gradients,
            "state": sum(one.size for one in moments),
            "kept": [
                [one[0], other[1] - one[1]]
                for one, other in zip(entries, entries[1:], strict=False)
                if one[0] + 1 == other[0]
            ],
            "stage": mesh.place(ranks.rank).pipeline,
        }
        (folder / f"step_{ranks.rank}.json").write_text(json.dumps(found))
        paddle.distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
