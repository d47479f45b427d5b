"""Hidden states belong to their time, and a clip gives alone what it gives in a batch."""

from itertools import islice

import numpy as np
import paddle
import pytest

from ernie5.config.audio_networks import MelNetworkConfig, MelTrainConfig
from ernie5.tokenizers.audio.mel_network import MelNetwork, Steps, shuffled, stacked

CONFIG = MelNetworkConfig(sample_rate=800, bands=8, width=16, units=3)
FRAME = 64


def network() -> MelNetwork:
    """In evaluation mode, with units that do something."""
    made = MelNetwork(CONFIG)
    for unit in made.units:
        unit.conv2.weight.set_value(0.3 * paddle.randn(unit.conv2.weight.shape))
    made.eval()
    return made


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (FRAME, 1), (FRAME + 1, 2), (10 * FRAME, 10)])
def test_states_are_four_a_frame(samples: int, frames: int):
    made = network()
    assert made(made.log_mel(paddle.randn([2, samples]))).shape == [2, 4 * frames, 16]
    assert made.num_frames(samples) == frames


def test_a_clip_gives_alone_what_it_gives_in_a_batch():
    made, sounds = network(), [np.random.randn(n).astype(np.float32) for n in (100, 640, 256)]
    frames = paddle.to_tensor([made.num_frames(len(sound)) for sound in sounds])
    together = made(made.log_mel(paddle.to_tensor(stacked(sounds))), frames)
    for states, sound, count in zip(together, sounds, frames.tolist(), strict=True):
        alone = made(made.log_mel(paddle.to_tensor(sound[None])))[0]
        np.testing.assert_allclose(states[: 4 * count].numpy(), alone.numpy(), atol=1e-5)


def test_a_click_is_loudest_in_the_mel_frame_of_its_time():
    waveform = paddle.zeros([1, 10 * FRAME])
    waveform[0, 3 * FRAME + 16] = 1.0  # 20 ms into the fourth frame
    assert int(network().log_mel(waveform).mean(axis=1).argmax()) == 8 * 3 + 2


def test_a_higher_tone_is_loudest_in_a_higher_band():
    time = np.arange(640) / 800
    tones = np.stack([np.sin(2 * np.pi * pitch * time) for pitch in (60, 150, 300)]).astype(np.float32)
    bands = network().log_mel(paddle.to_tensor(tones)).mean(axis=2).argmax(axis=1).tolist()
    assert bands[0] < bands[1] < bands[2]


def test_dropout_is_of_training_alone():
    made = network()
    made.dropout, mel = 0.5, made.log_mel(paddle.randn([1, 256]))
    assert float((made(mel) - made(mel)).abs().sum()) == 0
    made.train()
    assert float((made(mel) - made(mel)).abs().sum()) > 0


def test_every_clip_comes_once_before_any_comes_again():
    numbers = np.concatenate(list(islice(shuffled(range(16), 4, np.random.default_rng(0)), 8)))
    np.testing.assert_array_equal(np.bincount(numbers), np.full(16, 2))


def test_batches_are_of_clips_about_as_long():
    lengths = np.random.default_rng(1).integers(1, 1000, 64)
    spans = [np.ptp(lengths[numbers]) for numbers in islice(shuffled(lengths, 8, np.random.default_rng(0)), 8)]
    assert np.mean(spans) < 0.2 * np.ptp(lengths)


def test_a_batch_larger_than_the_clips_is_filled():
    assert len(next(shuffled([5, 5], 7, np.random.default_rng(0)))) == 7


def test_steps_go_down():
    layer = paddle.nn.Linear(4, 1)
    steps, inputs = Steps(layer, MelTrainConfig(steps=30, learning_rate=0.1, warmup_steps=0)), paddle.randn([8, 4])
    losses = []
    for _ in range(30):
        losses.append((layer(inputs) - 1).square().mean())
        steps.take(losses[-1])
    assert float(losses[-1]) < 0.5 * float(losses[0])
