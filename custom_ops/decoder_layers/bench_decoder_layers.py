"""One more token through a decoder layer of the yardstick: as one operator, and by its definitions.

python -m custom_ops.decoder_layers.bench_decoder_layers
"""

from pathlib import Path

from custom_ops.common import bench

CASES = [{"batch": batch, "past": past} for batch in (1, 8) for past in (192, 2048)]
YARDSTICK = Path(__file__).parents[2] / "configs/model/yardstick.yaml"


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.config.load import load_model_config
    from ernie5.layers.attention import LayerCache
    from ernie5.layers.layout import Layout
    from ernie5.layers.rope import rotation
    from ernie5.model.block import Block, run_blocks
    from ernie5.ops import backend
    from ernie5.ops.attention import Mask

    config = load_model_config(YARDSTICK)
    block, (batch, past) = Block(config, 0), case.values()
    shape = config.attention.num_key_value_heads, config.attention.head_dim
    states = paddle.randn([batch, 1, config.hidden_size])
    layout = Layout(Mask(1, past + 1), rotation(paddle.full([1, 1, 3], float(past)), config.attention))
    cache, expert_mask = LayerCache(), paddle.zeros([config.moe.num_experts])
    held = {room: tuple(paddle.randn([batch, past + room, *shape]) for _ in range(2)) for room in (0, 1)}

    def forward():
        cache.buffers, cache.length = held[backend.is_native("decoder_layers")], past  # the operator writes in place
        with paddle.no_grad():
            run_blocks([block], states, layout, [expert_mask], config.moe.num_experts_per_tok, [cache])

    return bench.Prepared(f"{batch} rows, {past} tokens before", {"forward": forward}, {"forward": batch})


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare, calls=10, unit="rows/s")
