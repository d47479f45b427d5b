"""Next-codec prediction against a NumPy walk over the top layers, finite differences, and itself frame by frame."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import AudioConfig
from ernie5.layers.layout import Layout, make_layout
from ernie5.layers.rope import rotation
from ernie5.modality.audio import AudioModality, TeacherForcing
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet, make_subnet
from tests.finite_differences import numeric_gradient
from tests.paged import PagedRows

LEVELS, SIZE, HIDDEN, EPSILON = 3, 7, 8, 1e-5
SPEECH = AudioConfig(num_codebooks=LEVELS, codebook_size=SIZE)


def modality(hidden_size: int = HIDDEN) -> AudioModality:
    """With weights so large that every part shows."""
    paddle.seed(2)
    audio = AudioModality(SPEECH, hidden_size, initializer_range=0.5, epsilon=EPSILON)
    for norm in audio.norms:
        norm.weight.set_value(paddle.uniform(norm.weight.shape, min=0.5, max=1.5))
    return audio


def table(audio: AudioModality, level: int) -> np.ndarray:
    return audio.code_embeddings[level].weight.numpy().astype(np.float64)


def logits_of(audio: AudioModality, rows: np.ndarray, level: int) -> np.ndarray:
    """RMSNorm and head of a level, float64."""
    normed = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + EPSILON) * audio.norms[level].weight.numpy()
    return normed @ audio.heads[level].weight.numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_input_of_a_frame_is_the_sum_of_the_embeddings_of_its_codes():
    audio, codes = modality(), np.array([[0, 3, 6], [6, 6, 0]])
    expected = [sum(table(audio, level)[code] for level, code in enumerate(frame)) for frame in codes]
    np.testing.assert_allclose(audio.embed(paddle.to_tensor(codes)).numpy(), expected, atol=1e-6)


def test_a_level_that_is_missing_adds_nothing_and_learns_nothing():
    audio, codes = modality(), np.array([[0, 3, -1], [6, -1, -1]])
    expected = [sum(table(audio, level)[code] for level, code in enumerate(frame) if code >= 0) for frame in codes]
    rows = audio.embed(paddle.to_tensor(codes))
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-6)
    rows.sum().backward()
    learned = [set(np.flatnonzero(embedding.weight.grad.numpy().any(-1))) for embedding in audio.code_embeddings]
    assert learned == [{0, 6}, {3}, set()]


def test_levels_are_read_behind_the_top_layers_and_their_codes_added_before_the_next():
    audio, rng = modality(), np.random.default_rng(0)
    hidden, places = rng.normal(size=(2, 5, HIDDEN)), np.array([1, 2, 9])
    targets, weight = np.array([[0, 1, 2], [3, 4, 5], [SIZE] * LEVELS]), np.array([1.0, 0.5, 2.0])
    layers = [rng.normal(0, 0.5, (HIDDEN, HIDDEN)) for _ in range(5)]
    forcing = TeacherForcing(paddle.to_tensor(targets), paddle.to_tensor(weight.astype(np.float32)))
    taps = audio.taps(5, paddle.to_tensor(places), forcing)
    assert sorted(taps) == [2, 3, 4]
    ours = paddle.to_tensor(hidden.astype(np.float32))
    losses, theirs = [], hidden.reshape(-1, HIDDEN).copy()
    for number, matrix in enumerate(layers):
        ours = ours + paddle.matmul(ours, paddle.to_tensor(matrix.astype(np.float32)))
        theirs = theirs + theirs @ matrix
        if number in taps:
            ours, level = taps[number](ours), number - 2
            log_odds = log_softmax(logits_of(audio, theirs[places], level))
            losses.append(-(weight * log_odds[np.arange(3), targets[:, level]]).sum())
            if level < LEVELS - 1:
                theirs[places] += table(audio, level)[targets[:, level]]
    np.testing.assert_allclose(ours.numpy().reshape(-1, HIDDEN), theirs, rtol=1e-4, atol=1e-4)
    assert float(forcing.loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_gradient_of_the_loss_is_the_numeric_one():
    audio, start = modality(), np.random.default_rng(1).normal(size=(1, 2, HIDDEN))
    targets, weight = np.array([[0, 5, SIZE]]), np.array([1.5])

    def loss(hidden: np.ndarray) -> float:
        row, total = hidden[0, 1].copy(), 0.0
        for level in range(LEVELS):
            total -= weight[0] * log_softmax(logits_of(audio, row[None], level))[0, targets[0, level]]
            if level < LEVELS - 1:
                row = np.tanh(row + table(audio, level)[targets[0, level]])
        return total / LEVELS

    forcing = TeacherForcing(paddle.to_tensor(targets), paddle.to_tensor(weight.astype(np.float32)))
    taps = audio.taps(LEVELS, paddle.to_tensor([1]), forcing)
    hidden = paddle.to_tensor(start.astype(np.float32), stop_gradient=False)
    states = hidden
    for level in range(LEVELS):
        states = taps[level](states)
        states = states if level == LEVELS - 1 else states.tanh()
    forcing.loss.backward()
    np.testing.assert_allclose(hidden.grad.numpy(), numeric_gradient(loss, start), rtol=1e-3, atol=1e-4)
    still = [name for name, p in audio.named_parameters() if p.grad is None or not float(p.grad.abs().sum())]
    assert still == ["code_embeddings.2.weight"]  # no layer follows the last level within its frame


# A row: five words, BOA, four frames; what is read at BOA and at each frame predicts the next frame, then the end.
WORDS, FRAMES = 5, 4


@pytest.fixture
def backbone(tiny_model_config) -> Ernie5ForCausalLM:
    paddle.seed(5)
    model = Ernie5ForCausalLM(dataclasses.replace(tiny_model_config, num_hidden_layers=4, num_nextn_predict_layers=0))
    for name, weight in model.state_dict().items():
        if "norm" not in name and "bias" not in name:
            weight.set_value(paddle.randn(weight.shape) * 0.2)
    return model.eval()


def causal(length: int) -> np.ndarray:
    return np.stack([np.full(length, length), np.arange(length)], -1).astype(np.int32)[None]


def positions(first: int, number: int) -> paddle.Tensor:
    return paddle.to_tensor(np.repeat(np.arange(first, first + number, dtype=np.float32)[None, :, None], 3, axis=2))


class Recorder:
    """Takes the likeliest code; remembers the logits."""

    def __init__(self):
        self.logits, self.codes = [], []

    def __call__(self, logits: paddle.Tensor, level: int) -> paddle.Tensor:
        self.logits.append(logits.numpy())
        self.codes.append(logits.argmax(-1))
        return self.codes[-1]


@paddle.no_grad()
def spoken(model: Ernie5ForCausalLM, audio: AudioModality, words: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frame by frame over pages: logits [frames, levels, size], codes [frames, levels]."""
    subnet, attention = full_subnet(model.config), model.config.attention
    rows = PagedRows(1, WORDS + FRAMES, subnet.layer_ids, (attention.num_key_value_heads, attention.head_dim))
    embedded, read, logits, codes = words, 0, [], []
    for _ in range(FRAMES + 1):
        new = embedded.shape[1]
        layout = Layout(rows.mask([new]), rotation(positions(read, new), attention))
        recorder = Recorder()
        taps = audio.taps(model.config.num_hidden_layers, paddle.to_tensor([new - 1]), recorder)
        model.decoder(embedded, layout, subnet, rows.pages.layers, taps)
        logits.append(np.concatenate(recorder.logits))
        codes.append(np.concatenate([code.numpy() for code in recorder.codes]))
        embedded, read = audio.embed(paddle.to_tensor(codes[-1][None])).unsqueeze(0), read + new
    return np.stack(logits), np.stack(codes)


def test_frame_by_frame_over_pages_equals_teacher_forcing_on_the_same_codes(backbone):
    audio = modality(backbone.config.hidden_size)
    words = backbone.text.embed(paddle.to_tensor([[3, 1, 4, 1, 5, 9]]))  # the last one is BOA
    logits, codes = spoken(backbone, audio, words)
    frames = audio.embed(paddle.to_tensor(codes[:FRAMES])).unsqueeze(0)
    whole = paddle.concat([words, frames], axis=1)
    length, recorded = whole.shape[1], []

    def choose(seen: paddle.Tensor, level: int) -> paddle.Tensor:
        recorded.append(seen.numpy())
        return paddle.to_tensor(codes[:, level])

    places = paddle.to_tensor(np.arange(WORDS, length))
    layout = make_layout(causal(length), positions(0, length), backbone.config.attention)
    taps = audio.taps(backbone.config.num_hidden_layers, places, choose)
    with paddle.no_grad():
        backbone.decoder(whole, layout, full_subnet(backbone.config), taps=taps)
    np.testing.assert_allclose(np.stack(recorded, axis=1), logits, atol=1e-4, rtol=0)
    assert len(np.unique(codes)) > 2  # not one code alone


def test_a_subnet_without_a_tapped_layer_is_refused(backbone):
    audio = modality(backbone.config.hidden_size)
    subnet = make_subnet(backbone.config, (0, 2, 3), None, backbone.config.moe.num_experts_per_tok)
    layout = make_layout(causal(2), positions(0, 2), backbone.config.attention)
    taps = audio.taps(4, paddle.to_tensor([1]), Recorder())
    with pytest.raises(AssertionError, match="a tapped layer is not in the subnet"):
        backbone.decoder(paddle.zeros([1, 2, backbone.config.hidden_size]), layout, subnet, taps=taps)
