"""How sounds are varied in training."""

import numpy as np
import pytest

from ernie5.config.schema import AudioConfig, AudioDataConfig
from ernie5.data.audible import UNCHANGED, AudioSettings, Variation, draw_variation, varied

RATE = 8000
TONE = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)


def settings(**data) -> AudioSettings:
    return AudioSettings(AudioConfig(sample_rate=RATE), AudioDataConfig(**data))


def draw(audio: AudioSettings, sample: int, sound: int) -> Variation:
    return draw_variation(audio, np.random.default_rng(sample), np.random.default_rng(sound))


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_faster_sound_is_shorter_and_higher(speed):
    played = varied(TONE, Variation(speed, 0))
    assert len(played) == round(RATE / speed) and played.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(played, RATE))
    assert spectrum.argmax() == pytest.approx(400 * speed, abs=1)


def test_a_delay_is_silence_before_the_sound():
    played = varied(TONE, Variation(1.0, 100))
    assert not played[:100].any()
    np.testing.assert_array_equal(played[100:], TONE)


def test_nothing_is_changed_unless_it_is_asked_for():
    assert draw(settings(), 1, 2) == UNCHANGED
    assert draw(settings(speed_range=0.2, max_delay=0.1).uncorrupted(), 1, 2) == UNCHANGED
    assert varied(TONE, UNCHANGED) is TONE


def test_sounds_of_a_sample_share_their_speed_but_not_their_delay():
    audio = settings(speed_range=0.2, max_delay=0.1)
    drawn = [draw(audio, 1, sound) for sound in range(20)]
    assert len({variation.speed for variation in drawn}) == 1
    assert len({variation.delay for variation in drawn}) > 10


def test_variations_stay_within_their_settings_and_reach_their_ends():
    audio = settings(speed_range=0.2, max_delay=0.1)
    drawn = [draw(audio, sample, sample + 1000) for sample in range(300)]
    speeds, delays, _ = zip(*drawn, strict=True)
    assert 0.8 <= min(speeds) < 0.82 and 1.18 < max(speeds) <= 1.2
    assert 0 <= min(delays) < 20 and 780 < max(delays) <= 800


def test_levels_are_dropped_as_often_as_is_asked_for_and_the_first_one_stays():
    audio = settings(level_dropout=0.25)
    levels = [draw(audio, sample, sample + 1000).levels for sample in range(800)]
    assert set(levels) == set(range(audio.model.num_codebooks))
    assert sum(level > 0 for level in levels) == pytest.approx(200, abs=45)
    assert draw(audio.uncorrupted(), 1, 2) == UNCHANGED
    delay = settings(max_delay=0.1)
    both = settings(max_delay=0.1, level_dropout=1.0)
    assert draw(delay, 1, 2).delay == draw(both, 1, 2).delay


def test_the_shortest_sound_stays_one():
    assert len(varied(TONE[:1], Variation(1.5, 0))) == 1
