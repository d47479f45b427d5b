"""Run as a program: what each process of a layout has of a model, and sends in a step, by kind of group.

python sent_step.py COUNT DEGREES FOLDER, where DEGREES is JSON
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

SEQ, ROWS = 256, 8  # of a batch; every row is one document


def model_config():
    from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig

    return ModelConfig(
        name="measured",
        vocab_size=512,
        hidden_size=96,
        num_hidden_layers=4,
        intermediate_size=128,
        num_nextn_predict_layers=1,
        attention=AttentionConfig(num_attention_heads=8, num_key_value_heads=4, head_dim=16, use_bias=True),
        moe=MoEConfig(
            num_experts=16, num_experts_per_tok=3, moe_intermediate_size=64, num_shared_experts=1, num_dense_layers=1
        ),
    )


def main(count: int, degrees: dict[str, int], folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle
        from paddle.distributed import fleet

        from ernie5.config.schema import OptimizerConfig, ParallelConfig
        from ernie5.layers.moe import MoE
        from ernie5.modality.batch import make_batch
        from ernie5.model.ernie5 import Ernie5ForCausalLM
        from ernie5.model.subnet import full_subnet
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import make_mesh
        from ernie5.parallel.parallelize import ParallelModel
        from ernie5.parallel.pipeline import Task
        from ernie5.planning.stages import layer_counts
        from ernie5.train.optimizer import build_optimizer
        from tests.sequences import packed_batch, random_documents

        config, ranks = model_config(), join()
        mesh = make_mesh(count, ParallelConfig(**degrees))
        paddle.seed(0)
        parallel = ParallelModel(Ernie5ForCausalLM(config), ranks, mesh, layer_counts(config, mesh.pipeline, SEQ))
        blocks = parallel.model.blocks().values()
        hcg = fleet.get_hybrid_communicate_group() if mesh.is_model_shared else None
        groups = {
            "tensor": [hcg.get_model_parallel_group()] if mesh.tensor > 1 else [],
            "pipeline": [hcg.get_pipe_parallel_group()] if mesh.pipeline > 1 else [],
            "context": [block.self_attn.attend.group for block in blocks][:1] if mesh.context > 1 else [],
            "expert": [layer.dispatcher.group for layer in parallel.model.sublayers() if isinstance(layer, MoE)][:1]
            if mesh.expert > 1
            else [],
            "data": [group for one in parallel.replicas for group in one.groups],
        }
        before = {kind: sum(one.process_group.bytes_sent for one in found) for kind, found in groups.items()}
        rows = parallel.share(packed_batch([random_documents([SEQ], 512, seed) for seed in range(ROWS)]))
        tasks = [
            Task(parallel.share_tokens(make_batch(part)), lambda losses: losses.text + losses.mtp)
            for part in rows.split(1)
        ]
        optimizer = build_optimizer(parallel.model, OptimizerConfig(), parallel.owned())
        optimizer.set_lr(1e-3)
        parallel.forward_backward(tasks, full_subnet(config))
        parallel.sum_gradients()
        optimizer.step()
        parallel.share_updates()
        sent = {
            kind: sum(one.process_group.bytes_sent for one in found) - before[kind] for kind, found in groups.items()
        }
        state = sum(one.size for name in ("moment1_0", "moment2_0") for one in _states(optimizer, name))
        held = sum(int(np.prod(one.shape)) for one in parallel.model.parameters())
        found = {"sent": sent, "parameters": held, "state": state, "stage": mesh.place(ranks.rank).pipeline}
        (folder / f"step_{ranks.rank}.json").write_text(json.dumps(found))
        paddle.distributed.barrier()


def _states(optimizer, name: str) -> list:
    tensors = optimizer.state_dict().items()
    return [tensor for key, tensor in tensors if key.endswith(name)]


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
