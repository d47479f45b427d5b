import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageSequence

from ernie5.config.schema import SourceConfig
from ernie5.data.digits.bank import SpeechConfig
from ernie5.data.digits.scans import load_scans, split_scans
from ernie5.data.digits.speech import split_speakers
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import SPLITS, WorldConfig, make_world, share_out, write_medium
from ernie5.data.sample import Audio, Image, Text, Video
from ernie5.data.sources import open_source
from ernie5.data.transcripts import read_index
from ernie5.errors import UserError

UNSPOKEN = tuple((name, task.weight) for name, task in TASKS.items() if not task.is_spoken)
TINY = WorldConfig(num_train=60, num_validation=5, num_test=20, weights=UNSPOKEN)
SPOKEN = replace(TINY, weights=WorldConfig().weights, speech=SpeechConfig(renditions=1, speakers=1))


def facts_of(world: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (world / "facts" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def samples_of(world: Path, split: str) -> list:
    path = str(world / f"{split}.jsonl")
    return list(open_source(SourceConfig(name=split, path=path)))


def test_manifests_are_read_by_the_real_parser(small_world: Path):
    assert [len(samples_of(small_world, split)) for split in SPLITS] == [600, 60, 300]


def test_every_task_is_there_in_its_share(small_world: Path):
    counts = Counter(fact["task"] for fact in facts_of(small_world, "train"))
    assert counts == share_out(600, tuple((name, task.weight) for name, task in TASKS.items()))


def test_only_what_is_answered_or_drawn_is_learned(small_world: Path):
    for sample, fact in zip(samples_of(small_world, "train"), facts_of(small_world, "train"), strict=True):
        *given, last = sample.segments
        assert all(not s.loss if isinstance(s, Text) else s.role in ("understand", "speaker") for s in given)
        if "answer" in fact:
            assert last == Text(fact["answer"])
        else:
            assert last.role == "generate"


def test_media_show_scans_of_their_own_split_alone(small_world: Path):
    allowed = json.loads((small_world / "world.json").read_text(encoding="utf-8"))["scans"]
    assert {name: set(ids) for name, ids in allowed.items()} == {
        name: set(ids.tolist()) for name, ids in split_scans(load_scans()).items()
    }
    for split in SPLITS:
        shown = {scan for fact in facts_of(small_world, split) for scan in fact.get("scans", [])}
        assert shown and shown <= set(allowed[split])


def test_sizes_and_frames_of_media(small_world: Path):
    sizes = {"picture": (1, 16, 16), "row": (1, 16, 32), "column": (1, 32, 16), "film": (5, 16, 16)}
    for sample, fact in zip(samples_of(small_world, "test"), facts_of(small_world, "test"), strict=True):
        for segment in sample.segments:
            if isinstance(segment, Image | Video):
                with PillowImage.open(segment.source) as image:
                    assert (getattr(image, "n_frames", 1), image.height, image.width) == sizes[fact["layout"]]


@pytest.mark.parametrize("name", ["film.gif", "picture.png"])
def test_files_keep_every_grey(tmp_path: Path, name: str):
    frames = np.random.default_rng(0).integers(0, 256, (5 if name == "film.gif" else 1, 16, 32), dtype=np.uint8)
    frames[0] = np.arange(512).reshape(16, 32) % 256  # all of them
    write_medium(tmp_path / name, frames)
    with PillowImage.open(tmp_path / name) as image:
        read = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    np.testing.assert_array_equal(np.stack(read), np.repeat(frames[..., None], 3, -1))


def test_film_files_show_four_frames_a_second(small_world: Path):
    film = next(s for sample in samples_of(small_world, "train") for s in sample.segments if isinstance(s, Video))
    assert film.fps == 4
    with PillowImage.open(film.source) as image:
        assert {frame.info["duration"] for frame in ImageSequence.Iterator(image)} == {250}


def test_a_seed_makes_the_same_world_again(tmp_path: Path):
    digests = [make_world(tmp_path / name, TINY)["digest"] for name in ("a", "b")]
    assert digests[0] == digests[1]
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_another_seed_makes_another_world_of_the_same_split(tmp_path: Path):
    first, second = (make_world(tmp_path / str(seed), replace(TINY, seed=seed)) for seed in (0, 1))
    assert first["digest"] != second["digest"]
    assert first["scans"] == second["scans"]


def test_an_older_world_is_replaced_as_a_whole(tmp_path: Path):
    make_world(tmp_path / "world", TINY)
    make_world(tmp_path / "world", replace(TINY, num_train=10))
    assert len(facts_of(tmp_path / "world", "train")) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize("content", ["notes.txt", "world.json"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, content: str):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / content).write_text('{"maker": "me"}', encoding="utf-8")
    with pytest.raises(UserError, match="is no digit world"):
        make_world(tmp_path / "mine", TINY)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [content]


def test_a_world_that_fails_half_way_leaves_the_older_one(tmp_path: Path):
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    before = make_world(tmp_path / "world", TINY)["digest"]
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "world", replace(TINY, seed=1), fail)
    assert json.loads((tmp_path / "world" / "world.json").read_text(encoding="utf-8"))["digest"] == before
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_train": 0}, "num_train is 0"),
        ({"film_frames": 1}, "nothing moves"),
        ({"weights": (("reed", 1),)}, 'unknown task "reed"'),
        ({"weights": (("read", 0),)}, "one above it"),
    ],
)
def test_a_world_that_cannot_be_made_is_refused(tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_world(tmp_path / "world", replace(TINY, **change))
    assert not list(tmp_path.iterdir())


def test_shares_sum_up_and_follow_the_weights():
    assert share_out(10, (("a", 1), ("b", 1), ("c", 1))) in (
        {"a": 4, "b": 3, "c": 3},
        {"a": 3, "b": 4, "c": 3},
        {"a": 3, "b": 3, "c": 4},
    )
    assert share_out(7, (("a", 0), ("b", 2))) == {"a": 0, "b": 7}


def test_sounds_are_of_speakers_of_their_own_split_alone(small_world: Path):
    about = json.loads((small_world / "world.json").read_text(encoding="utf-8"))
    speakers = about["speech"]["speakers"]
    assert {split: tuple(names) for split, names in speakers.items()} == {
        split: names[:2] for split, names in split_speakers().items()
    }
    for split in SPLITS:
        spoken = [fact for fact in facts_of(small_world, split) if "sounds" in fact]
        assert {fact["speaker"] for fact in spoken} <= set(speakers[split])
        assert all(path.startswith(f"sounds/{split}/") for fact in spoken for path in fact["sounds"])


def test_sounds_of_the_judge_stand_in_the_bank(small_world: Path):
    lines = read_index(str(small_world / "sounds.jsonl"))
    counts = json.loads((small_world / "world.json").read_text(encoding="utf-8"))["speech"]["sounds"]
    assert Counter(line.split for line in lines) == {split: count["espeak"] for split, count in counts.items()}
    assert all(Path(line.path).is_file() for line in lines) and counts["judge"]["espeak"] > 0


def test_sounds_of_samples_are_those_of_their_facts(small_world: Path):
    for sample, fact in zip(samples_of(small_world, "test"), facts_of(small_world, "test"), strict=True):
        paths = [str(Path(s.source).relative_to(small_world)) for s in sample.segments if isinstance(s, Audio)]
        assert paths == fact.get("sounds", [])


def test_a_seed_makes_the_same_spoken_world_again(tmp_path: Path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        about = make_world(tmp_path / name, replace(SPOKEN, seed=seed))
        digests.append((about["digest"], about["speech"]["sounds_digest"]))
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_speech_leaves_the_other_tasks_as_they_are(tmp_path: Path):
    weights = {"read": 1, "listen": 1}
    make_world(tmp_path / "quiet", replace(TINY, num_train=20, weights=(("read", 1),)))
    make_world(tmp_path / "spoken", replace(SPOKEN, num_train=40, weights=tuple(weights.items())))
    quiet = [fact["scans"] for fact in facts_of(tmp_path / "quiet", "train")]
    spoken = [fact["scans"] for fact in facts_of(tmp_path / "spoken", "train") if fact["task"] == "read"]
    assert sorted(quiet) == sorted(spoken)


def test_a_world_without_speech_needs_no_synthesizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in ("espeakng_loader", "soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, module, None)
    assert make_world(tmp_path / "world", TINY)["speech"] is None
    assert not (tmp_path / "world" / "sounds").exists()


def test_speech_without_a_synthesizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install 'ernie5\\[data\\]'"):
        make_world(tmp_path / "world", SPOKEN)
    assert not list(tmp_path.iterdir())
