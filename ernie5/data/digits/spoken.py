"""The tasks of the digit world in which something is heard or said. All sounds of a sample are of one speaker."""

from itertools import product

from ernie5.data.digits.bank import Sound
from ernie5.data.digits.deck import Deck
from ernie5.data.digits.studio import Facts, Medium, Sample, Samples, Studio
from ernie5.data.digits.texts import choose_language, say
from ernie5.data.digits.voices import Voices
from ernie5.data.sample import Audio


def hear(studio: Studio, task: str) -> Samples:
    """A digit is heard: which one it is, in figures, or in words of the language that is spoken (`transcribe`)."""
    voices, digits = _voices(studio), Deck(list(range(10)), studio.rng)
    while True:
        language = choose_language(task, studio.rng)
        sound = voices.deal("digit", (digits.deal(),))
        answer = sound.text if task == "transcribe" else str(sound.digits[0])
        facts = _facts(task, language, sound, (sound,), sound.digits, answer=answer)
        yield Sample((_heard(sound), say(task, language, studio.rng)), answer, facts)


def hear_sum(studio: Studio, task: str) -> Samples:
    """Two numbers are heard and added."""
    voices = _voices(studio)
    while True:
        language, sound = choose_language(task, studio.rng), voices.deal("sum")
        answer = str(sum(sound.digits))
        facts = _facts(task, language, sound, (sound,), sound.digits, answer=answer)
        yield Sample((_heard(sound), say(task, language, studio.rng)), answer, facts)


def speak(studio: Studio, task: str) -> Samples:
    """A digit is said in the voice of a reference clip."""
    voices, digits = _voices(studio), Deck(list(range(10)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        sound = voices.deal("digit", (digit,), voices.language(language))
        yield _said(voices, task, language, sound, (say(task, language, studio.rng, digit),))


def speak_two(studio: Studio, task: str) -> Samples:
    """Two digits are said one after the other."""
    voices = _voices(studio)
    while True:
        language = choose_language(task, studio.rng)
        sound = voices.deal("pair", language=voices.language(language))
        a, b = sound.digits
        yield _said(voices, task, language, sound, (say(task, language, studio.rng, a=a, b=b),))


def draw_heard(studio: Studio, task: str) -> Samples:
    voices, digits = _voices(studio), Deck(list(range(10)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        sound, scan = voices.deal("digit", (digit,)), studio.scan(digit)
        facts = _facts(task, language, sound, (sound,), (digit,), scans=(scan,), layout="picture")
        yield Sample((_heard(sound), say(task, language, studio.rng)), studio.picture(scan, "generate"), facts)


def say_seen(studio: Studio, task: str) -> Samples:
    voices, digits = _voices(studio), Deck(list(range(10)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        sound, scan = voices.deal("digit", (digit,), voices.language(language)), studio.scan(digit)
        given = (studio.picture(scan, "understand"), say(task, language, studio.rng))
        yield _said(voices, task, language, sound, given, scans=(scan,), layout="picture")


def add_seen_heard(studio: Studio, task: str) -> Samples:
    """A digit is seen, another one heard; their sum is told."""
    voices, pairs = _voices(studio), Deck(list(product(range(10), repeat=2)), studio.rng)
    while True:
        (seen, heard), language = pairs.deal(), choose_language(task, studio.rng)
        sound, scan, answer = voices.deal("digit", (heard,)), studio.scan(seen), str(seen + heard)
        known = {"scans": (scan,), "layout": "picture", "answer": answer}
        facts = _facts(task, language, sound, (sound,), (seen, heard), **known)
        given = (studio.picture(scan, "understand"), _heard(sound), say(task, language, studio.rng))
        yield Sample(given, answer, facts)


def _voices(studio: Studio) -> Voices:
    if studio.voices is None:
        raise ValueError("a spoken task needs the sounds of its split")
    return studio.voices


def _heard(sound: Sound) -> Audio:
    return Audio(sound.path, "understand")


def _said(
    voices: Voices, task: str, language: str, sound: Sound, given: tuple[str | Medium, ...], **known: object
) -> Sample:
    """The sound as the answer, a clip of its speaker before all that is given."""
    reference = voices.reference(sound)
    facts = _facts(task, language, sound, (reference, sound), sound.digits, **known)
    return Sample((Audio(reference.path, "speaker"), *given), Audio(sound.path, "generate"), facts)


def _facts(
    task: str, language: str, sound: Sound, sounds: tuple[Sound, ...], digits: tuple[int, ...], **known: object
) -> Facts:
    return Facts(
        task=task,
        language=language,
        digits=digits,
        spoken=sound.text,
        spoken_language=sound.language,
        speaker=sound.speaker,
        voice=sound.source,
        sounds=tuple(each.path for each in sounds),
        **known,
    )
