import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.audio.sampler import LOUDNESS_RANGE, ClipSampler, leveled


def test_clips_are_pieces_of_sounds_each_as_likely_as_it_is_long():
    sounds = [np.arange(100, dtype=np.float32), 1000 + np.arange(300, dtype=np.float32)]
    clips = ClipSampler(sounds, 10).clips(np.random.default_rng(0), 4000)
    assert (np.diff(clips, axis=1) == 1).all()
    assert 0.72 < (clips[:, 0] >= 1000).mean() < 0.78
    assert clips.min() == 0 and clips.max() == 1299


def test_a_shorter_sound_stands_whole_somewhere_in_silence():
    clips = ClipSampler([np.ones(4, np.float32)], 6).clips(np.random.default_rng(0), 60)
    assert (clips.sum(1) == 4).all()
    assert {int(clip.argmax()) for clip in clips} == {0, 1, 2}


def test_no_sound_is_refused():
    with pytest.raises(UserError, match="data.train holds no sound"):
        ClipSampler([], 10)


def test_loudness_is_drawn_evenly_in_decibels():
    clips = 0.05 * np.random.default_rng(1).standard_normal([400, 500]).astype(np.float32)
    decibels = 20 * np.log10(np.sqrt(np.square(leveled(clips, np.random.default_rng(0))).mean(axis=1)))
    low, high = 20 * np.log10(LOUDNESS_RANGE)
    assert low - 0.1 < decibels.min() < low + 0.5 and high - 0.5 < decibels.max() < high + 0.1
    assert np.median(decibels) == pytest.approx((low + high) / 2, abs=1.5)


def test_a_peak_stays_within_full_scale_and_silence_silent():
    clips = np.zeros([20, 500], np.float32)
    clips[:10, 7] = 0.9
    found = leveled(clips, np.random.default_rng(0))
    assert found.max() <= 1 and found[:10].max() > 0.9
    assert not found[10:].any()
