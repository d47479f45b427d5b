import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.audio.sampler import ClipSampler


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
