import re
from collections import Counter

import numpy as np
import pytest

from ernie5.data.digits.bank import Sound, spoken_text
from ernie5.data.digits.scans import load_scans, split_scans
from ernie5.data.digits.studio import Medium
from ernie5.data.digits.tasks import TASKS, make_samples
from ernie5.data.digits.texts import NUMBER_WORDS
from ernie5.data.digits.voices import Speech, Voices
from ernie5.data.sample import Audio

SPOKEN = [name for name, task in TASKS.items() if task.is_spoken]
SAID = ("speak", "speak_two", "say_seen")


def sounds(languages=("en",), recorded: bool = False) -> list[Sound]:
    """Two speakers say each digit twice, and some phrases; recorded people each digit once, in English."""
    found = []
    for language in languages:
        for speaker in ("m1", "f1"):
            forms = [("digit", (d,)) for d in range(10)] * 2
            forms += [(form, (a, (a + 3) % 10)) for form in ("sum", "pair") for a in range(10)]
            for number, (form, digits) in enumerate(forms):
                path, text = f"{speaker}_{language}_{number}.wav", spoken_text(form, digits, language)
                found.append(Sound(path, text, language, speaker, "train", "espeak", form, digits))
    for speaker in ("recorded_ann", "recorded_bob") if recorded else ():
        for digit, word in enumerate(NUMBER_WORDS["en"]):
            found.append(Sound(f"{speaker}_{digit}.wav", word, "en", speaker, "train", "recorded", "digit", (digit,)))
    return found


def samples(task: str, count: int = 100, bank: list | None = None, languages=("en",), share: float = 0.5) -> list:
    scans = load_scans()
    speech = Speech(sounds() if bank is None else bank, languages, share)
    chance, ids = np.random.default_rng(0), split_scans(scans)["test"]
    return make_samples(task, count, scans.digits, ids, chance, vary=False, num_frames=5, speech=speech)


def by_path(bank: list[Sound]) -> dict[str, Sound]:
    return {sound.path: sound for sound in bank}


@pytest.mark.parametrize("task", ["listen", "transcribe", "listen_sum"])
def test_what_is_heard_is_answered(task: str):
    bank = by_path(sounds())
    for sample in samples(task):
        audio, question = sample.parts
        heard = bank[audio.source]
        expected = {"listen": str(heard.digits[0]), "transcribe": heard.text, "listen_sum": str(sum(heard.digits))}
        assert audio.role == "understand" and isinstance(question, str)
        assert sample.answer == sample.facts.answer == expected[task]
        assert (heard.form == "sum") == (task == "listen_sum")
        assert (sample.facts.digits, sample.facts.spoken) == (heard.digits, heard.text)


@pytest.mark.parametrize("task", SAID)
def test_what_is_said_is_what_is_asked_for(task: str):
    bank = by_path(sounds())
    for sample in samples(task):
        said, request = bank[sample.answer.source], sample.parts[-1]
        assert sample.answer.role == "generate" and not sample.facts.answer
        if task == "say_seen":
            assert isinstance(sample.parts[1], Medium) and sample.parts[1].role == "understand"
            assert load_scans().digits[sample.facts.scans[0]] == said.digits[0]
        elif sample.facts.language == "en":
            words = re.fullmatch(r"Say (\w+(?: \w+)?)\.", request)[1]
            assert words in (said.text, " ".join(map(str, said.digits)))
        assert said.form == ("pair" if task == "speak_two" else "digit")
        assert (sample.facts.digits, sample.facts.spoken) == (said.digits, said.text)


@pytest.mark.parametrize("task", SAID)
def test_reference_is_another_sound_of_the_same_speaker(task: str):
    bank = by_path(sounds(recorded=True))
    for sample in samples(task, bank=list(bank.values())):
        reference = sample.parts[0]
        assert reference.role == "speaker" and reference.source != sample.answer.source
        speakers = {bank[audio.source].speaker for audio in (reference, sample.answer)}
        assert speakers == {sample.facts.speaker}
        assert sample.facts.sounds == (reference.source, sample.answer.source)


def test_reference_is_any_other_digit_of_the_speaker():
    texts = Counter(by_path(sounds())[sample.parts[0].source].text for sample in samples("speak", 400))
    assert set(texts) == set(NUMBER_WORDS["en"])


def test_what_is_heard_is_drawn():
    bank = by_path(sounds())
    for sample in samples("draw_heard"):
        audio, _ = sample.parts
        assert audio.role == "understand" and sample.answer.role == "generate"
        assert load_scans().digits[sample.facts.scans[0]] == bank[audio.source].digits[0]
        assert sample.answer.frames[0][0].scan == sample.facts.scans[0]


def test_what_is_seen_and_what_is_heard_are_added():
    bank = by_path(sounds())
    chosen = samples("add_seen_heard")
    for sample in chosen:
        picture, audio, _ = sample.parts
        seen, heard = load_scans().digits[picture.frames[0][0].scan], bank[audio.source].digits[0]
        assert sample.answer == sample.facts.answer == str(seen + heard)
        assert sample.facts.digits == (seen, heard)
    assert len({sample.facts.digits for sample in chosen}) == 100


@pytest.mark.parametrize("task", SPOKEN)
def test_facts_name_all_sounds(task: str):
    for sample in samples(task, 20):
        parts = (*sample.parts, sample.answer)
        assert sample.facts.sounds == tuple(part.source for part in parts if isinstance(part, Audio))
        assert sample.facts.voice == "espeak" and sample.facts.spoken_language == "en"


@pytest.mark.parametrize("task", ["listen", "speak", "draw_heard", "say_seen"])
def test_spoken_digits_come_equally_often(task: str):
    assert set(Counter(sample.facts.digits for sample in samples(task)).values()) == {10}


def test_sounds_that_say_the_same_come_equally_often():
    counts = Counter(sample.facts.sounds for sample in samples("listen", 400))
    assert len(counts) == 40 and set(counts.values()) == {10}


def test_speech_is_in_the_language_of_the_request_or_the_first():
    bank = sounds(("fr", "de"))
    for task in ("speak", "speak_two", "say_seen"):
        for sample in samples(task, bank=bank, languages=("fr", "de")):
            assert sample.facts.spoken_language == ("de" if sample.facts.language == "de" else "fr")


def test_all_spoken_languages_are_heard_and_transcribed():
    heard = samples("transcribe", bank=sounds(("en", "zh")), languages=("en", "zh"))
    assert {sample.facts.spoken_language for sample in heard} == {"en", "zh"}
    for sample in heard:
        assert sample.answer in NUMBER_WORDS[sample.facts.spoken_language]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("task", ["listen", "speak", "add_seen_heard"])
def test_the_share_of_recordings_is_kept(task: str, share: float):
    voices = [sample.facts.voice for sample in samples(task, 400, sounds(recorded=True), share=share)]
    assert abs(voices.count("recorded") / 400 - share) < (0.07 if 0 < share < 1 else 1e-9)


def test_phrases_are_synthesized_where_digits_are_recorded():
    assert {s.facts.voice for s in samples("listen_sum", bank=sounds(recorded=True), share=1.0)} == {"espeak"}


def test_the_only_sound_of_a_speaker_is_its_own_reference():
    only = [Sound("a.wav", "one", "en", "m1", "train", "espeak", "digit", (1,))]
    assert Voices(Speech(only, ("en",), 0.5), np.random.default_rng(0)).reference(only[0]) == only[0]


def test_spoken_task_without_sounds_is_a_mistake():
    scans = load_scans()
    with pytest.raises(ValueError, match="needs the sounds"):
        make_samples("listen", 1, scans.digits, np.arange(99), np.random.default_rng(0), vary=False, num_frames=5)
