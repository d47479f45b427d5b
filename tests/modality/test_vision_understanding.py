"""The two vision paths and their merger against NumPy (report §2.2.2)."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import ResolutionConfig, VisionConfig, VisionEncoderConfig, ViTConfig
from ernie5.modality.patch_merger import PatchMerger, group_cells
from ernie5.modality.vision_transformer import VisionTransformer
from ernie5.modality.vision_understanding import VisionUnderstanding
from ernie5.modality.visual_layout import understanding_layout

ENCODER = VisionEncoderConfig(channels=(4, 6))
HEADS, WIDTH = 2, 16
VIT = ViTConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=12)


def build(make, scale=0.3, seed=0):
    """A layer whose weights are large enough that each of them shows."""
    layer, rng = make(), np.random.default_rng(seed)
    for parameter in layer.parameters():
        parameter.set_value(rng.normal(0, scale, parameter.shape).astype(np.float32))
    return layer


def weights(layer):
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x, weight, epsilon=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def pixels(batch, frames, height, width, seed=1):
    values = np.random.default_rng(seed).uniform(-1, 1, [batch, frames, height, width, 3])
    return values.astype(np.float32)


def vision_config(path="both", encoder=ENCODER):
    table = (ResolutionConfig(height=8, width=8, scales=((1, 1), (4, 4))),)
    return VisionConfig(
        encoder=encoder, max_bits=4, resolutions=table, vit=VIT, merger_heads=2, understanding_path=path
    )


def understanding(path="both", encoder=ENCODER, seed=0):
    return build(lambda: VisionUnderstanding(vision_config(path, encoder), 10, 0.02), seed=seed)


def rotated(states, height, width):
    """Two-dimensional rotary positions: pair j of a head turns with the row where j is even, else with the column."""
    head_dim = states.shape[-1]
    half = head_dim // 2
    rows, columns = np.repeat(np.arange(height), width), np.tile(np.arange(width), height)
    result = np.empty_like(states)
    for j in range(half):
        angle = (rows if j % 2 == 0 else columns) * 10_000.0 ** (-j / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        first, second = states[:, :, j], states[:, :, j + half]
        result[:, :, j], result[:, :, j + half] = first * cos - second * sin, second * cos + first * sin
    return result


def vit_reference(w, patches, height, width):
    """patches [n, 3 * stride^2] of one frame -> [n, hidden]."""
    hidden = patches @ w["patch_embed.weight"] + w["patch_embed.bias"]
    block = {name.removeprefix("layers.0."): value for name, value in w.items()}
    normed = rms(hidden, block["input_layernorm.weight"])
    query, key, value = (
        (normed @ block[f"self_attn.{p}_proj.weight"]).reshape(len(patches), HEADS, -1) for p in ("q", "k", "v")
    )
    query, key = rotated(query, height, width), rotated(key, height, width)
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[-1])
    attended = np.einsum("hqk,khd->qhd", softmax(scores), value).reshape(len(patches), -1)
    hidden = hidden + attended @ block["self_attn.o_proj.weight"]
    normed = rms(hidden, block["post_attention_layernorm.weight"])
    gated = silu(normed @ block["mlp.gate_proj.weight"]) * (normed @ block["mlp.up_proj.weight"])
    return rms(hidden + gated @ block["mlp.down_proj.weight"], w["norm.weight"])


def test_transformer_attends_within_a_frame_with_two_dimensional_positions():
    vit = build(lambda: VisionTransformer(VIT, ENCODER, 0.02))
    film = pixels(2, 3, 4, 6)
    result = vit(paddle.to_tensor(film)).numpy()
    assert result.shape == (2, 3, 2, 3, WIDTH)
    for batch in range(2):
        for frame in range(3):
            cells = [
                film[batch, frame, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel() for i in range(2) for j in range(3)
            ]
            expected = vit_reference(weights(vit), np.array(cells), 2, 3)
            np.testing.assert_allclose(result[batch, frame].reshape(6, -1), expected, atol=2e-5)


def test_frames_are_merged_as_the_tokenizer_merges_them():
    encoder = VisionEncoderConfig(channels=(4, 6, 6), temporal_stride=2)
    vit = VisionTransformer(VIT, encoder, 0.02)
    film = pixels(1, 5, 4, 4)
    patches = vit.patches(paddle.to_tensor(film)).numpy()
    assert patches.shape == (1, 3, 1, 1, 2 * 16 * 3)
    assert np.array_equal(patches[0, 0, 0, 0], np.stack([film[0, 0], film[0, 0]]).ravel())
    assert np.array_equal(patches[0, 2, 0, 0], film[0, 3:5].ravel())


def merger_reference(w, cnn, vit, heads):
    """One group: cnn [K, D_cnn], vit [K, D_vit] -> [hidden]; None is a path that is left out."""
    paths = [cnn @ w["cnn_proj.weight"] if cnn is not None else None, vit]
    patches = np.concatenate([path for path in paths if path is not None])
    qkv = (rms(patches, w["norm.weight"]) @ w["qkv_proj.weight"]).reshape(len(patches), 3, heads, -1)
    query, key, value = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[-1])
    attended = np.einsum("hqk,khd->qhd", softmax(scores), value).reshape(len(patches), -1)
    return (patches + attended @ w["o_proj.weight"]).mean(0) @ w["out_proj.weight"]


@pytest.mark.parametrize("patches", [4, 16])
def test_merger_attends_over_both_paths_of_a_group_and_takes_the_mean(patches):
    merger = build(lambda: PatchMerger(6, WIDTH, 4, 10, 0.02))
    rng = np.random.default_rng(2)
    cnn = rng.normal(size=[3, patches, 6]).astype(np.float32)
    vit = rng.normal(size=[3, patches, WIDTH]).astype(np.float32)
    result = merger(paddle.to_tensor(cnn), paddle.to_tensor(vit)).numpy()
    for group in range(3):
        expected = merger_reference(weights(merger), cnn[group], vit[group], heads=4)
        np.testing.assert_allclose(result[group], expected, atol=2e-5)


def cells_of(position, frames):
    """[frame, row, column] of each cell behind the token at `position` of the layout."""
    t, h, w = position
    depth = 1 if frames == 1 else 4
    times = [min(depth * t + f, frames - 1) for f in range(depth)]
    return [[time, 2 * h + i, 2 * w + j] for time in times for i in range(2) for j in range(2)]


@pytest.mark.parametrize("frames", range(1, 7))
def test_groups_hold_the_cells_of_their_token_in_the_layouts_order(frames):
    height, width = 4, 6
    address = np.stack(np.indices([frames, height, width]), -1)[None].astype(np.float32)
    groups = group_cells(paddle.to_tensor(address)).numpy()
    positions = understanding_layout(frames, height, width).positions
    assert len(groups) == len(positions)
    for group, position in zip(groups, positions.astype(int), strict=True):
        assert group.tolist() == cells_of(position, frames)


@pytest.mark.parametrize("path", ["both", "cnn", "vit"])
def test_picture_gives_a_token_for_four_cells_with_either_path_or_both(path):
    layer = understanding(path)
    assert layer(paddle.to_tensor(pixels(2, 1, 8, 12))).shape == [2, 6, 10]
    assert (layer.cnn is None) == (path == "vit") and (layer.vit is None) == (path == "cnn")


@pytest.mark.parametrize("path", ["both", "cnn", "vit"])
@pytest.mark.parametrize("frames", [1, 6])
def test_token_is_what_the_paths_see_of_the_cells_at_its_place(path, frames):
    layer, film = understanding(path), paddle.to_tensor(pixels(1, frames, 8, 12))
    cnn, vit = (None if tower is None else tower(film).numpy()[0] for tower in (layer.cnn, layer.vit))
    tokens = layer(film).numpy()[0]
    positions = understanding_layout(frames, 4, 6).positions.astype(int)
    for token, position in zip(tokens, positions, strict=True):
        cells = tuple(np.transpose(cells_of(position, frames)))
        seen = [None if features is None else features[cells] for features in (cnn, vit)]
        np.testing.assert_allclose(token, merger_reference(weights(layer.merger), *seen, heads=2), atol=2e-5)


@pytest.mark.parametrize("temporal_stride", [1, 2, 4])
def test_both_paths_see_a_film_on_one_grid_and_its_first_frame_as_a_picture(temporal_stride):
    layer = understanding(encoder=VisionEncoderConfig(channels=(4, 6, 6), temporal_stride=temporal_stride))
    film = paddle.to_tensor(pixels(1, 1 + 2 * temporal_stride, 8, 16))
    for tower in (layer.cnn, layer.vit):
        features = tower(film)
        assert features.shape[:4] == [1, 3, 2, 4]
        np.testing.assert_allclose(features[:, :1].numpy(), tower(film[:, :1]).numpy(), atol=2e-5)


def test_media_together_are_as_alone():
    layer, film = understanding(), pixels(3, 5, 8, 8)
    together = layer(paddle.to_tensor(film)).numpy()
    for i in range(3):
        np.testing.assert_allclose(together[i], layer(paddle.to_tensor(film[i : i + 1])).numpy()[0], atol=2e-5)


def test_gradients_reach_the_transformer_and_the_merger_but_not_the_encoder():
    layer = understanding()
    layer(paddle.to_tensor(pixels(1, 1, 8, 8))).square().sum().backward()
    for name, parameter in layer.named_parameters():
        if name.startswith("cnn."):
            assert parameter.grad is None and parameter.stop_gradient
        else:
            assert float(parameter.grad.abs().sum()) > 0, name


def test_encoder_takes_the_tokenizers_weights():
    layer, other = understanding(seed=0), understanding(seed=5)
    layer.load_cnn(other.cnn.state_dict())
    for name, value in weights(other.cnn).items():
        assert np.array_equal(weights(layer.cnn)[name], value)


def test_pictures_are_taken_in_the_dtype_of_the_weights():
    layer = understanding()
    for linear in layer.sublayers():
        if isinstance(linear, paddle.nn.Linear):
            linear.to(dtype="float64")
    assert layer(paddle.to_tensor(pixels(1, 1, 8, 8))).dtype == paddle.float64
