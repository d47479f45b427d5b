"""One more token through a decoder layer of the yardstick: as one operator, and by its definitions.

python -m custom_ops.paged_decoder_layers.bench_paged_decoder_layers
"""

from pathlib import Path

from custom_ops.common import bench

CASES = [{"batch": batch, "past": past} for batch in (1, 8) for past in (192, 2048)]
YARDSTICK = Path(__file__).parents[2] / "configs/model/yardstick.yaml"


def prepare(case: dict[str, int]) -> bench.Prepared:
    import numpy as np
    import paddle

    from ernie5.config.load import load_model_config
    from ernie5.layers.layout import Layout
    from ernie5.layers.pages import PAGE_KEYS, PagedMask, Pages, Row
    from ernie5.layers.rope import rotation
    from ernie5.modality.token_layout import TO_THE_END
    from ernie5.model.block import Block, run_blocks

    config = load_model_config(YARDSTICK)
    block, (batch, past) = Block(config, 0), case.values()
    shape = config.attention.num_key_value_heads, config.attention.head_dim
    states = paddle.randn([1, batch, config.hidden_size])
    pages, each = Pages([0], shape, paddle.float32), past // PAGE_KEYS + 1
    pages.resize(batch * each)
    rows = [Row(1, past, past, tuple(range(row * each, (row + 1) * each))) for row in range(batch)]
    for row in rows:
        pages.mark(Row(past + 1, 0, 0, row.pages), np.arange(past + 1), TO_THE_END)
    layout = Layout(PagedMask(rows, pages), rotation(paddle.full([1, batch, 3], float(past)), config.attention))
    expert_mask, layers = paddle.zeros([config.moe.num_experts]), [pages.layers[0]]
    layers[0].keys, layers[0].values = (paddle.randn(layers[0].keys.shape) for _ in range(2))

    def forward():
        with paddle.no_grad():
            run_blocks([block], states, layout, [expert_mask], config.moe.num_experts_per_tok, layers)

    return bench.Prepared(f"{batch} rows, {past} tokens before", {"forward": forward}, {"forward": batch})


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare, calls=10, unit="rows/s")
