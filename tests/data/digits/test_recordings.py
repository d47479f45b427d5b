import numpy as np
import pytest

from ernie5.data.digits.recordings import Recording, read_fsdd, split_recordings
from ernie5.data.sounds import read_sound, write_sound
from ernie5.errors import UserError


def names(speakers=("ann", "bob", "eve"), takes=20):
    return [f"{digit}_{speaker}_{take}.wav" for digit in range(10) for speaker in speakers for take in range(takes)]


def make(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    return str(folder)


def test_names_tell_what_was_recorded(tmp_path):
    folder = make(tmp_path, ["7_eve_10.wav", "7_eve_9.wav", "0_ann_3.wav", "README.md"])
    assert read_fsdd(folder) == [
        Recording(f"{folder}/0_ann_3.wav", 0, "ann", 3),
        Recording(f"{folder}/7_eve_9.wav", 7, "eve", 9),
        Recording(f"{folder}/7_eve_10.wav", 7, "eve", 10),
    ]


def test_repository_of_the_dataset_is_read(tmp_path):
    make(tmp_path / "recordings", ["7_eve_9.wav"])
    assert [recording.digit for recording in read_fsdd(str(tmp_path))] == [7]


def test_recording_is_a_sound(tmp_path):
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    write_sound(tmp_path / "7_eve_9.wav", 0.5 * np.sin(np.arange(800)), 8_000)
    assert read_sound(read_fsdd(str(tmp_path))[0].path, 8_000, 1.0).shape == (800,)


@pytest.mark.parametrize("name", ["seven_eve_9.wav", "7_eve.wav", "10_eve_9.wav", "7_eve_9.WAV"])
def test_other_name_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="rename it"):
        read_fsdd(make(tmp_path, ["7_eve_9.wav", name] if name != "7_eve_9.WAV" else [name]))


def test_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no .wav"):
        read_fsdd(str(tmp_path))
    with pytest.raises(UserError, match="No such file"):
        read_fsdd(str(tmp_path / "missing"))


def test_split_holds_each_recording_once_and_one_speaker_out(tmp_path):
    recordings = read_fsdd(make(tmp_path, names()))
    split = split_recordings(recordings, "bob")
    assert sorted(sum(split.values(), [])) == sorted(recordings)
    assert {recording.speaker for recording in split["test"]} == {"bob"} and len(split["test"]) == 200
    assert {name: len(chosen) for name, chosen in split.items() if name != "test"} == {
        "judge": 160,
        "validation": 40,
        "train": 200,
    }


def test_every_split_has_every_digit_of_its_speakers_alike(tmp_path):
    split = split_recordings(read_fsdd(make(tmp_path, names())), "eve")
    for name, share in {"judge": 8, "validation": 2, "train": 10}.items():
        counts = np.zeros((10, 2), int)
        for recording in split[name]:
            counts[recording.digit, ("ann", "bob").index(recording.speaker)] += 1
        assert (counts == share).all()


def test_split_depends_neither_on_the_folder_nor_on_the_order(tmp_path):
    here = read_fsdd(make(tmp_path / "a", names()))
    there = read_fsdd(make(tmp_path / "b", names()))[::-1]
    one, other = (
        {name: [recording[1:] for recording in chosen] for name, chosen in split_recordings(found, "ann").items()}
        for found in (here, there)
    )
    assert one == other
    assert [take for _, _, take in one["judge"][:8]] != list(range(8))


def test_speaker_who_is_not_there_is_refused(tmp_path):
    recordings = read_fsdd(make(tmp_path, names(takes=1)))
    with pytest.raises(UserError, match="hold out one of ann, bob, eve"):
        split_recordings(recordings, "zoe")


def test_single_speaker_is_refused(tmp_path):
    with pytest.raises(UserError, match="only speaker"):
        split_recordings(read_fsdd(make(tmp_path, names(("ann",), 1))), "ann")
