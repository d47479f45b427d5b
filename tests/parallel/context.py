"""Run as a program: attention over rows that lie on several processes, written down by each for a test to compare.

python context.py COUNT BACKEND FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

SEQ, HEADS, KV_HEADS, HEAD_DIM = 96, 4, 2, 8


def documents(*lengths: int):
    """Causal documents, columns [seq, 2]."""
    import numpy as np

    ends = np.repeat(np.cumsum(lengths), lengths)
    return np.stack([ends, np.arange(ends.size)], -1)


def groups(*sizes: int):
    """One document whose groups are bidirectional inside, [seq, 2]."""
    import numpy as np

    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.stack([np.full(starts.size, starts.size), starts], -1)


def frames(size: int, window: int, dropped: int):
    """Frames that see `window` frames back, [seq, 4]; one is hidden from all behind it."""
    import numpy as np

    frame = np.arange(SEQ) // size
    start = np.where(frame == dropped, frame + 1, frame + window + 1) * size
    return np.stack([start.clip(max=SEQ), np.full(SEQ, SEQ), 0 * frame, frame * size], -1)


def unseen():
    """Two documents around padding that nobody sees and that sees nothing, [seq, 2]."""
    import numpy as np

    rows = documents(20, 43, 33)
    rows[20:63] = 0, SEQ
    return np.array(rows)


def masks() -> dict:
    """(columns int32 [batch, seq, columns] or None, causal) of each case."""
    import numpy as np

    cases = {
        "one document": ([documents(SEQ)], False),
        "documents across cuts": ([documents(5, 30, 2, 40, 19)], False),
        "scales across cuts": ([groups(10, 1, 4, 16, 36, 9, 20)], False),
        "windows of frames": ([frames(7, 2, 4)], False),
        "a mask for each row": ([documents(50, 46), groups(3, 60, 33), documents(*[8] * 12)], False),
        "one mask for all rows": ([documents(50, 46)], False),
        "padding": ([unseen(), documents(SEQ)], False),
        "causal columns": ([documents(33, 63)[:, :1]], True),
    }
    return {name: (np.stack(rows).astype(np.int32), causal) for name, (rows, causal) in cases.items()}


def mask(name: str):
    from ernie5.ops.attention import Mask

    columns, causal = masks()[name]
    return Mask(SEQ, SEQ, columns, causal)


def given(name: str):
    """query, key, value and the gradient of the output, float32, of whole rows."""
    import numpy as np

    batch = 3 if name == "one mask for all rows" else len(masks()[name][0])
    rng = np.random.default_rng(len(name))
    shapes = [HEADS, HEAD_DIM], [KV_HEADS, HEAD_DIM], [KV_HEADS, HEAD_DIM], [HEADS * HEAD_DIM]
    return [rng.normal(size=[batch, SEQ, *shape]).astype(np.float32) for shape in shapes]


def decoder_step(own, attend=None) -> dict:
    """Of a decoder that recomputes, for some tokens of "a mask for each row": its output and gradients, NumPy."""
    import numpy as np
    import paddle

    from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
    from ernie5.layers.layout import Layout
    from ernie5.layers.rope import rotation
    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.model.subnet import full_subnet
    from ernie5.parallel.recompute import recompute_blocks

    config = ModelConfig(
        name="decoder",
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_nextn_predict_layers=0,
        initializer_range=0.2,
        attention=AttentionConfig(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM),
        moe=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
    )
    with paddle.utils.unique_name.guard():
        model = Ernie5ForCausalLM(config)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.set_value(rng.normal(scale=0.2, size=parameter.shape).astype(np.float32))
    if attend is not None:
        for block in model.blocks().values():
            block.self_attn.attend = attend
    recompute_blocks(model, "full")
    states, grad = (rng.normal(size=[3, SEQ, 16]).astype(np.float32) for _ in range(2))
    states, grad = paddle.to_tensor(states[:, own]), paddle.to_tensor(grad[:, own])
    states.stop_gradient = False
    positions = np.repeat(np.arange(SEQ, dtype=np.float32)[None, own, None], 3, axis=2).repeat(3, axis=0)
    layout = Layout(mask("a mask for each row"), rotation(paddle.to_tensor(positions), config.attention))
    output = model.decoder(states, layout, full_subnet(config)).hidden_states
    output.backward(grad)
    grads = {name: one.grad.numpy() for name, one in model.decoder.named_parameters() if one.grad is not None}
    return {"output": output.numpy(), "states": states.grad.numpy(), **grads}


def main(count: int, backend: str, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle
        import paddle.distributed as dist

        from ernie5.ops.backend import choose
        from ernie5.parallel import gloo
        from ernie5.parallel.context import ContextParallelAttention, own_tokens

        choose(backend)
        gloo.install()
        dist.init_parallel_env()
        rank, group = dist.get_rank(), dist.new_group(list(range(count)))
        attend, found = ContextParallelAttention(group), {}
        for name in masks():
            own = own_tokens(SEQ, count, rank)
            *states, grad = (paddle.to_tensor(whole[:, own]) for whole in given(name))
            whole_rows = mask(name)
            for state in states:
                state.stop_gradient = False
            for turn in range(2):  # as two layers: the second finds the plan made
                for state in states:
                    state.clear_gradient()
                before = group.process_group.bytes_sent
                output = attend(*states, whole_rows)
                found[f"{name}/bytes{turn}"] = group.process_group.bytes_sent - before
                output.backward(grad)
            found[f"{name}/bytes_back"] = group.process_group.bytes_sent - before - found[f"{name}/bytes1"]
            found |= {f"{name}/output": output.numpy()}
            found |= {f"{name}/{key}": one.grad.numpy() for key, one in zip("qkv", states, strict=True)}
            alone = [paddle.to_tensor(whole) for whole in given(name)[:3]]
            before = group.process_group.bytes_sent
            found[f"{name}/alone"] = attend(*alone, whole_rows).numpy()
            found[f"{name}/bytes_alone"] = group.process_group.bytes_sent - before
        found |= {f"decoder/{key}": one for key, one in decoder_step(own, attend).items()}
        np.savez(folder / f"rank_{rank}.npz", **found)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
