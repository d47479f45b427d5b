from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageSequence

from ernie5.analysis.contact_sheet import write_contact_sheet
from ernie5.analysis.digit_world import (
    Case,
    Score,
    Size,
    as_record,
    draw_cases,
    in_order,
    is_right_answer,
    load_cases,
    measure_variety,
    score_answers,
    score_drawings,
    table,
)
from ernie5.analysis.digits import Judge
from ernie5.data.digits.bank import SpeechConfig
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import WorldConfig, make_world
from ernie5.data.manifest import parse_line
from ernie5.data.sample import Audio, Text
from ernie5.errors import UserError

UNSPOKEN = tuple((name, task.weight) for name, task in TASKS.items() if not task.is_spoken)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "digits"
    make_world(folder, WorldConfig(num_train=1, num_validation=1, num_test=300, weights=UNSPOKEN))
    return folder


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.train()


def reference_media(world: Path) -> dict[str, np.ndarray]:
    """What the test split has after each prompt that asks for a drawing."""
    media = {}
    for line in (world / "test.jsonl").read_bytes().splitlines():
        *prompt, last = parse_line(line, "here", str(world)).segments
        if not isinstance(last, Text):
            with PillowImage.open(last.source) as image:
                media[repr(prompt)] = np.stack(
                    [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
                )
    return media


def test_cases_end_before_the_answer(world: Path):
    cases = load_cases(world)
    assert len(cases) == 300
    for case in cases:
        assert all(not s.loss if isinstance(s, Text) else s.role == "understand" for s in case.prompt)
        assert bool(case.answer) == (case.size is None)


def test_cases_are_limited_by_task(world: Path):
    tasks = [case.task for case in load_cases(world, per_task=3)]
    assert max(tasks.count(task) for task in tasks) == 3
    assert tasks.count("read") == 3


def test_what_is_heard_is_answered_and_what_is_said_is_known_by_its_digits(tmp_path: Path):
    weights = (("draw", 1), ("listen", 1), ("say_seen", 1), ("draw_heard", 1))
    speech = SpeechConfig(renditions=1, speakers=1)
    make_world(tmp_path / "w", WorldConfig(num_train=4, num_validation=4, num_test=4, weights=weights, speech=speech))
    cases = {case.task: case for case in load_cases(tmp_path / "w")}
    asked = {task: (bool(case.answer), case.size is not None, bool(case.says)) for task, case in cases.items()}
    assert asked == {
        "draw": (False, True, False),
        "listen": (True, False, False),
        "say_seen": (False, False, True),
        "draw_heard": (False, True, False),
    }
    said = cases["say_seen"]
    assert said.says == str(said.digits[0]) and said.voice == "espeak" and cases["draw"].voice == ""
    assert [segment.role for segment in said.prompt if isinstance(segment, Audio)] == ["speaker"]


def test_recorded_voices_are_scored_apart():
    case = Case([], "listen", "en", (4,), "4", None, "", "", voice="recorded")
    assert case.name == "listen, recorded"
    assert list(score_answers([case], lambda *_: ["4"], 0, lambda _: None)) == ["listen, recorded"]
    assert in_order(["speak", "listen, recorded", "listen"]) == ["listen, recorded", "listen", "speak"]


def test_sizes_are_those_of_what_is_asked_for(world: Path):
    sizes = {(case.task, case.size) for case in load_cases(world) if case.size}
    assert {size for task, size in sizes if task == "scene_draw"} == {Size(16, 32, 1), Size(32, 16, 1)}
    assert {size for task, size in sizes if task == "animate"} == {Size(16, 16, 5)}
    assert {size for task, size in sizes if task == "draw"} == {Size(16, 16, 1)}


def test_true_answers_score_full_and_others_nothing(world: Path):
    cases = load_cases(world)
    expected = {repr(case.prompt): case.answer for case in cases}
    done = []
    scores = score_answers(cases, lambda prompts, _: [expected[repr(p)] for p in prompts], 0, done.append)
    assert set(scores) >= {"read", "caption", "scene_which", "scene_sum", "film_direction"}
    assert all(score.share == 1 for score in scores.values())
    assert sum(done) == sum(case.size is None for case in cases)
    wrong = score_answers(cases, lambda prompts, _: ["?"] * len(prompts), 0, done.append)
    assert all(score.share == 0 for score in wrong.values())


def test_drawings_are_scored_as_the_real_ones_deserve(world: Path, judge: Judge):
    cases, media = load_cases(world), reference_media(world)
    by_prompt = [case for case in cases if case.size]
    drawings = draw_cases(by_prompt, lambda prompts, *_: [media[repr(p)] for p in prompts], judge, 0, lambda _: None)
    scores = score_drawings(drawings)
    assert scores["draw"].share > 0.95
    assert scores["scene_draw: all"].share > 0.9
    assert scores["animate: direction"].share == scores["animate: speed"].share == 1
    assert scores["animate: all"].share > 0.95
    assert sum(cases for _, cases in scores["draw"].by_language.values()) == scores["draw"].cases


def test_the_wrong_digit_and_the_wrong_way_score_nothing(world: Path, judge: Judge):
    media = reference_media(world)

    def draw(prompts, size, seed):
        frames = [media[repr(p)] for p in prompts]
        return [f[::-1] if size.num_frames > 1 else np.zeros_like(f) for f in frames]

    scores = score_drawings(draw_cases(load_cases(world), draw, judge, 0, lambda _: None))
    assert scores["draw"].share == scores["scene_draw: all"].share == 0
    assert scores["animate: direction"].share == scores["animate: all"].share == 0
    assert scores["animate: digit"].share > 0.95


def test_a_block_that_moves_the_right_way_scores_nothing(judge: Judge):
    block = np.zeros((5, 16, 16, 3), np.uint8)
    for time in range(5):
        block[time, 4:10, time : time + 6] = 255
    case = Case([], "animate", "en", (4,), "", Size(16, 16, 5), "right", "slow")
    (drawing,) = draw_cases([case], lambda *_: [block], judge, 0, lambda _: None)
    assert not any(drawing.right.values())


def test_every_batch_has_another_seed(world: Path, judge: Judge):
    seeds = []

    def draw(prompts, size, seed):
        seeds.append(seed)
        return [np.zeros((size.num_frames, size.height, size.width, 3), np.uint8)] * len(prompts)

    draw_cases(load_cases(world), draw, judge, 5, lambda _: None)
    assert len(set(seeds)) == len(seeds) > 4


@pytest.mark.parametrize(
    "text, expected, right",
    [
        ("7", "7", True),
        (" 7.\n", "7", True),
        ("Left", "left", True),
        ("下边。", "下边", True),
        ("7 8", "7", True),
        ("17", "7", False),
        ("", "7", False),
        ("is 7", "7", False),
    ],
)
def test_the_first_word_is_the_answer(text: str, expected: str, right: bool):
    assert is_right_answer(text, expected) == right


def test_one_table_and_one_record_hold_all_results(world: Path, judge: Judge):
    cases, media = load_cases(world), reference_media(world)
    drawings = draw_cases(cases, lambda prompts, *_: [media[repr(p)] for p in prompts], judge, 0, lambda _: None)
    scores, variety = score_drawings(drawings), measure_variety(drawings, judge)
    text, record = table(scores, variety), as_record(scores, variety)
    assert "animate: direction" in text and "near duplicates" in text
    assert record["scores"]["draw"]["share"] == scores["draw"].share
    assert 0.3 < record["variety"]["drawn"]["closer_to_train"] < 0.7  # held-out scans
    assert record["variety"]["test"]["uncovered"] is None


def test_a_folder_that_is_no_world_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="make_digits"):
        load_cases(tmp_path)


def test_a_damaged_world_is_refused(world: Path, tmp_path: Path):
    (tmp_path / "world.json").write_bytes((world / "world.json").read_bytes())
    with pytest.raises(UserError, match="is damaged"):
        load_cases(tmp_path)


def test_contact_sheet_frames_right_and_wrong(tmp_path: Path):
    media = [np.full((2, 16, 32, 3), value, np.uint8) for value in (10, 60, 200)]
    write_contact_sheet(tmp_path / "s.gif", media, [True, False, True], columns=2, fps=4)
    with PillowImage.open(tmp_path / "s.gif") as image:
        assert (image.width, image.height) == (4 * 2 * 34, 4 * 2 * 18)
    write_contact_sheet(tmp_path / "s.png", [m[:1] for m in media], [True, False, True], columns=2, fps=4)
    sheet = np.asarray(PillowImage.open(tmp_path / "s.png"))
    assert sheet[0, 0, 1] > sheet[0, 0, 0] and sheet[0, -1, 0] > sheet[0, -1, 1]
    assert sheet[40, 60].tolist() == [10] * 3


def test_table_follows_the_order_of_the_tasks():
    names = ["animate: all", "draw", "read"]
    lines = table({name: Score(1, 2) for name in names}, None).splitlines()
    assert [line[:30].strip() for line in lines[1:]] == names[::-1]


def test_a_case_without_drawings_has_no_variety(judge: Judge):
    case = Case([], "animate", "en", (1,), "", Size(16, 16, 5), "left", "slow")
    drawn = draw_cases([case], lambda *_: [np.zeros((6, 16, 16, 3), np.uint8)], judge, 0, lambda _: None)
    assert measure_variety(drawn, judge) is None
