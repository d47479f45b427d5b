"""A sample with sounds against the layout of the report's Figure 3, written out by hand."""

import dataclasses

import numpy as np
import pytest

from ernie5.config.schema import AudioDataConfig
from ernie5.data.audible import AudioSettings
from ernie5.data.manifest import BadLine
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Cursor, fill_row
from ernie5.data.sample import Audio, Message, Sample, Text
from ernie5.data.sequence import encode_sample
from ernie5.data.sounds import read_sound
from ernie5.errors import UserError
from ernie5.modality.unified import TokenKind
from tests.arithmetic_audio import AUDIO, FRAME, noise_sound
from tests.data.tiny_tokenizer import FIRST, VisualTinyTokenizer

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
TOKENIZER = VisualTinyTokenizer()
S = TOKENIZER.special_ids
BOA, EOA, HOLD = S["<boa>"], S["<eoa>"], S["<audio>"]
A, B = FIRST + ord("a"), FIRST + ord("b")
SOUND = TokenKind.AUDIO
QUIET = AudioSettings(AUDIO, AudioDataConfig()).uncorrupted()


@pytest.fixture
def sound(tmp_path):
    """Makes a file of so many samples."""
    return lambda num_samples, seed=0: noise_sound(tmp_path, num_samples, seed)


def encode(*segments, settings=QUIET, seed=0):
    sample = Sample(segments=segments, origin="a:1")
    return encode_sample(sample, TOKENIZER, seed=seed, media=MediaSettings(audio=settings))


def dropping(rate):
    return QUIET._replace(data=AudioDataConfig(condition_dropout=rate))


def test_a_sound_that_is_heard_is_boa_frames_eoa_and_carries_no_loss(sound):
    sample = encode(Audio(sound(2 * FRAME + 1), "understand"), Text("a"))
    assert sample.ids.tolist() == [1, BOA, HOLD, HOLD, HOLD, EOA, A, 2]
    assert sample.loss.tolist() == [False, False, False, False, False, False, True, True]
    assert sample.places.kinds.tolist() == [0, 0, SOUND, SOUND, SOUND, 0, 0, 0]


def test_of_a_sound_that_is_spoken_the_text_head_predicts_its_beginning_and_what_follows(sound):
    sample = encode(Text("a", loss=False), Audio(sound(2 * FRAME), "generate"), Text("b"))
    assert sample.ids.tolist() == [1, A, BOA, HOLD, HOLD, EOA, B, 2]
    # a_1 and a_2 and the end behind them are for the heads of audio: EOA carries no loss of text.
    assert sample.loss.tolist() == [False, False, True, False, False, False, True, True]


def test_the_end_of_a_document_behind_a_spoken_sound_carries_loss(sound):
    path = sound(FRAME)
    assert encode(Text("a", loss=False), Audio(path, "generate")).loss.tolist() == [False] * 2 + [True] + [
        False
    ] * 2 + [True]
    assert not encode(Audio(path, "understand")).loss.any()


def test_sounds_are_causal_and_counted_like_text(sound):
    places = encode(Text("a"), Audio(sound(3 * FRAME), "understand"), Text("b")).places
    assert places.positions.tolist() == [[i, i, i] for i in range(9)]
    row = fill_row(
        Cursor(), [encode(Text("a"), Audio(sound(3 * FRAME), "generate"), Text("b")), None].__getitem__, 9, 0, "split"
    )
    query = np.arange(9)[:, None]
    visible = (query < row.mask_rows[:, 0]) & (query >= row.mask_rows[:, 1])
    assert np.array_equal(visible, np.tri(9, dtype=bool))


def test_the_waveform_rides_along_at_the_place_of_its_first_frame(sound):
    heard, spoken = sound(FRAME), sound(2 * FRAME, seed=1)
    media = encode(Audio(heard, "understand"), Text("a"), Audio(spoken, "generate")).places.media
    # <s> BOA x EOA a BOA x x EOA </s>
    assert [(m.start, m.length, m.role, m.is_generated) for m in media] == [
        (2, 1, "understand", False),
        (6, 2, "generate", True),
    ]
    for medium, path in zip(media, (heard, spoken), strict=True):
        np.testing.assert_array_equal(medium.samples, read_sound(path, AUDIO.sample_rate, AUDIO.max_seconds))


def test_a_voice_is_one_token_without_marks(sound):
    sample = encode(Audio(sound(5 * FRAME), "speaker"), Text("a", loss=False), Audio(sound(FRAME), "generate"))
    assert sample.ids.tolist() == [1, HOLD, A, BOA, HOLD, EOA, 2]
    assert sample.loss.tolist() == [False, False, False, True, False, False, True]
    assert sample.places.kinds.tolist() == [0, SOUND, 0, 0, SOUND, 0, 0]
    voice = sample.places.media[0]
    assert (voice.start, voice.length, voice.role, len(voice.samples)) == (1, 1, "speaker", 5 * FRAME)


def test_guidance_leaves_out_what_stands_before_the_first_spoken_sound_and_keeps_boa(sound):
    segments = (Audio(sound(FRAME), "speaker"), Text("a"), Audio(sound(2 * FRAME), "generate"), Text("b"))
    sample = encode(*segments, settings=dropping(1.0))
    assert sample.ids.tolist() == [1, BOA, HOLD, HOLD, EOA, B, 2]
    assert sample.loss.tolist() == [False, False, False, False, False, True, True]
    assert [medium.start for medium in sample.places.media] == [2]


def test_condition_is_dropped_at_the_given_rate_and_as_the_seed_says(sound):
    segments, settings = (Text("aa"), Audio(sound(FRAME), "generate")), dropping(0.3)
    lengths = [len(encode(*segments, settings=settings, seed=seed)) for seed in range(300)]
    assert 0.2 < np.mean(np.array(lengths) == 5) < 0.4
    assert lengths[:20] == [len(encode(*segments, settings=settings, seed=seed)) for seed in range(20)]


def test_what_is_only_heard_is_never_dropped(sound):
    segments = (Text("a"), Audio(sound(FRAME), "understand"), Text("b"))
    assert encode(*segments, settings=dropping(1.0)).ids.tolist() == encode(*segments).ids.tolist()


def test_sounds_in_a_chat_stand_inside_their_turn(sound):
    user = Message("user", (Audio(sound(FRAME), "understand"), Text("b", False)))
    answer = Message("assistant", (Text("a"), Audio(sound(FRAME), "generate")))
    sample = Sample(messages=(user, answer), origin="a:1")
    ids = encode_sample(sample, TOKENIZER, media=MediaSettings(audio=QUIET)).ids.tolist()
    end = TOKENIZER.end_id
    assert ids == [1, 3, BOA, HOLD, EOA, B, end, 4, A, BOA, HOLD, EOA, end, 2]


def test_two_samples_in_a_row_keep_their_walls_their_places_and_their_counting(sound):
    first = encode(Audio(sound(FRAME), "understand"), Text("a"))  # <s> BOA x EOA a </s>
    second = encode(Text("b", loss=False), Audio(sound(2 * FRAME), "generate"))  # <s> b BOA x x EOA </s>
    row = fill_row(Cursor(), dict(enumerate([first, second])).get, 16, 0, "split")
    assert row.input_ids.tolist() == [1, BOA, HOLD, EOA, A, 2, 1, B, BOA, HOLD, HOLD, EOA, 2, 0, 0, 0]
    assert row.document_ids.tolist() == [0] * 6 + [1] * 7 + [-1] * 3
    assert row.position_ids[:13, 0].tolist() == [*range(6), *range(7)]
    assert [(medium.start, medium.length) for medium in row.media] == [(2, 1), (9, 2)]
    predicted = np.flatnonzero(row.loss_weight)
    assert list(zip(predicted.tolist(), row.labels[predicted].tolist(), strict=True)) == [
        (3, A),
        (4, 2),
        (7, BOA),
        (11, 2),
    ]
    query = np.arange(16)[:, None]
    visible = (query < row.mask_rows[:, 0]) & (query >= row.mask_rows[:, 1])
    same = row.document_ids[:, None] == row.document_ids[None]
    assert np.array_equal(visible[:13, :13], (np.tri(16, dtype=bool) & same)[:13, :13])


def test_sample_with_a_sound_is_never_cut(sound):
    sample = encode(Audio(sound(4 * FRAME), "understand"))  # 8 tokens
    row = fill_row(Cursor(), dict(enumerate([encode(Text("aaa")), sample])).get, 12, 0, "split")
    assert (row.token_kind == TokenKind.PADDING).sum() == 12 - 5
    with pytest.raises(UserError, match="a:1: has 8 tokens, but max_seq_len of the stage is 7: raise it$"):
        fill_row(Cursor(), [sample].__getitem__, 7, 0, "split")


def test_file_that_is_no_sound_is_a_bad_line_of_its_sample(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound at all")
    with pytest.raises(BadLine, match=r"^a:1: .*a\.wav: is "):
        encode(Audio(str(tmp_path / "a.wav"), "understand"))


def test_sound_that_is_too_long_is_a_bad_line_of_its_sample(sound):
    path = sound(2 * AUDIO.sample_rate + 1)
    with pytest.raises(BadLine, match=r"^a:1: .*longer than the limit of 2 s"):
        encode(Audio(path, "generate"))


def test_voice_for_a_model_that_takes_none_is_a_bad_line_of_its_sample(sound):
    deaf = QUIET._replace(model=dataclasses.replace(AUDIO, speaker_dim=0))
    with pytest.raises(BadLine, match=r"^a:1: .*is a reference clip, but this model takes no voices"):
        encode(Audio(sound(FRAME), "speaker"), settings=deaf)


def test_sound_for_a_model_without_audio_is_refused(sound):
    with pytest.raises(UserError, match=r"^a:1: has the audio .*, but this model has no audio"):
        encode(Audio(sound(FRAME), "understand"), settings=None)
