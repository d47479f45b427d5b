"""The prediction block against arXiv:2412.19437 eq. 21-24, written out here from its parts."""

import numpy as np
import paddle

from ernie5.layers.layout import make_layout
from ernie5.modality.batch import make_batch
from ernie5.model.subnet import full_subnet
from tests.sequences import packed_batch, random_documents


def norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def test_prediction_block_joins_the_residual_with_the_next_embedding(config, build):
    model = build(config)
    batch = make_batch(packed_batch([random_documents([9, 5], config.vocab_size)]))
    subnet = full_subnet(config)
    layout = make_layout(batch.mask_rows, batch.position_ids, config.attention)
    residual = model.decoder(model.text.embed(batch.input_ids), layout, subnet).residual
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}

    next_embeddings = w["text.embed_tokens.weight"][batch.next_ids.numpy()]
    joined = np.concatenate(
        [
            norm(residual.numpy().astype(np.float64), w["mtp.hnorm.weight"], config.rms_norm_eps),
            norm(next_embeddings, w["mtp.enorm.weight"], config.rms_norm_eps),
        ],
        -1,
    )
    states = paddle.to_tensor((joined @ w["mtp.eh_proj.weight"]).astype(np.float32))
    mask = subnet.expert_mask[config.num_hidden_layers]
    states = model.mtp.block(states, layout, mask, subnet.top_k).hidden_states.numpy().astype(np.float64)
    expected = norm(states, w["mtp.norm.weight"], config.rms_norm_eps) @ w["text.embed_tokens.weight"].T

    second = model.predict_second_next(residual, model.text.embed(batch.next_ids), layout, subnet)
    np.testing.assert_allclose(model.logits(second.hidden_states).numpy(), expected, rtol=1e-4, atol=2e-5)


def test_prediction_block_reads_the_stream_before_the_final_norm(config, build):
    model = build(config)
    batch = make_batch(packed_batch([random_documents([9], config.vocab_size)]))
    before = float(model(batch, full_subnet(config)).mtp)
    model.decoder.norm.weight.set_value(model.decoder.norm.weight * 3)
    after = model(batch, full_subnet(config))
    assert float(after.mtp) == before


def test_loss_of_the_prediction_block_trains_the_embedding_and_every_layer(config, build):
    model = build(config)
    model(make_batch(packed_batch([random_documents([30], config.vocab_size)])), full_subnet(config)).mtp.backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0}
    assert silent == {"decoder.norm.weight"}
