"""Sounds of a batch become codes, targets and voices in their places."""

import dataclasses

import numpy as np
import pytest

from ernie5.modality import audio_codes
from ernie5.modality.unified import SoundMedium
from tests.arithmetic_audio import AUDIO, FRAME, audio_coder, codes_of, voice_of

END = AUDIO.codebook_size


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)


def medium(samples: np.ndarray, start: int, role: str, row: int = 0) -> SoundMedium:
    length = 1 if role == "speaker" else -(-len(samples) // FRAME)
    return SoundMedium(samples=samples, start=start, length=length, role=role, row=row)


def test_codes_of_sounds_of_unlike_length_are_those_of_each_alone():
    sounds = [noise(n, seed) for seed, n in enumerate((3 * FRAME, 1, 5 * FRAME + 7))]
    together = audio_coder().codes(sounds)
    alone = [audio_coder().codes([sound])[0] for sound in sounds]
    assert [len(codes) for codes in together] == [3, 1, 6]
    for one, other, sound in zip(together, alone, sounds, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, codes_of(sound))


def test_codes_that_are_remembered_are_those_computed_and_are_not_computed_again():
    coder, sounds = audio_coder(), [noise(2 * FRAME), noise(FRAME, 1)]
    fresh = coder.codes(sounds)
    again = coder.codes([sounds[1].copy(), sounds[0].copy(), sounds[1]])
    assert coder.tokenizer.calls == 1
    for one, other in zip(again, (fresh[1], fresh[0], fresh[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_sounds_of_a_batch_are_encoded_once():
    coder, sound = audio_coder(), noise(FRAME)
    seen = []
    encode = coder.tokenizer.encode
    coder.tokenizer.encode = lambda waveform: (seen.append(waveform.shape), encode(waveform))[1]
    assert len(coder.codes([sound, sound.copy(), noise(FRAME, 1)])) == 3
    assert seen == [[2, FRAME]]


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(audio_codes, "KEPT_FRAMES", 5)
    coder, sounds = audio_coder(), [noise(2 * FRAME, seed) for seed in range(3)]
    for sound in sounds:
        coder.codes([sound])
    assert coder.tokenizer.calls == 3
    coder.codes([sounds[2], sounds[1]])
    assert coder.tokenizer.calls == 3
    np.testing.assert_array_equal(coder.codes([sounds[0]])[0], codes_of(sounds[0]))
    assert coder.tokenizer.calls == 4


def test_a_clip_is_remembered_as_a_sound_and_as_a_voice_apart():
    coder, clip = audio_coder(), noise(2 * FRAME)
    codes, vector = coder.codes([clip])[0], coder.vectors([clip])[0]
    np.testing.assert_array_equal(codes, codes_of(clip))
    np.testing.assert_array_equal(vector, voice_of(clip))


def test_frames_targets_and_voices_of_two_rows_stand_in_the_flattened_batch():
    heard, spoken, voice, other = noise(2 * FRAME), noise(FRAME + 1, 1), noise(FRAME, 2), noise(FRAME, 3)
    media = [
        medium(voice, 1, "speaker"),
        medium(heard, 3, "understand"),
        medium(voice, 0, "speaker", row=1),
        medium(spoken, 4, "generate", row=1),
        medium(other, 8, "generate", row=1),
    ]
    batch = audio_coder().encode(media, seq_len=10)
    assert batch.places.tolist() == [3, 4, 14, 15, 18]
    np.testing.assert_array_equal(batch.codes.numpy(), np.concatenate([codes_of(s) for s in (heard, spoken, other)]))
    assert batch.voices.places.tolist() == [1, 10]
    np.testing.assert_array_equal(batch.voices.vectors.numpy(), [voice_of(voice)] * 2)
    assert batch.spoken.places.tolist() == [13, 14, 15, 17, 18]  # one before each frame, and the last frame itself
    assert batch.spoken.weight.tolist() == [1.0] * 5


def test_targets_are_the_codes_and_the_end_at_every_level():
    spoken = noise(2 * FRAME)
    targets = audio_coder().encode([medium(spoken, 1, "generate")], seq_len=10).spoken
    np.testing.assert_array_equal(targets.codes.numpy(), [*codes_of(spoken), [END] * AUDIO.num_codebooks])


def test_levels_that_a_sound_leaves_out_are_missing_from_what_goes_in_alone():
    cut, whole = noise(2 * FRAME), noise(FRAME, 1)
    media = [dataclasses.replace(medium(cut, 1, "understand"), levels=1), medium(whole, 5, "generate")]
    coder = audio_coder()
    batch = coder.encode(media, seq_len=10)
    codes = batch.codes.numpy()
    np.testing.assert_array_equal(codes[:2, 0], codes_of(cut)[:, 0])
    assert (codes[:2, 1:] == audio_codes.MISSING).all()
    np.testing.assert_array_equal(codes[2:], codes_of(whole))
    np.testing.assert_array_equal(coder.codes([cut])[0], codes_of(cut))  # what is remembered is whole


@pytest.mark.parametrize("role", ["understand", "speaker"])
def test_what_is_not_spoken_has_no_targets(role):
    batch = audio_coder().encode([medium(noise(FRAME), 1, role)], seq_len=4)
    assert batch.spoken is None
    assert (batch.codes is None) == (role == "speaker") and (batch.voices is None) == (role == "understand")
