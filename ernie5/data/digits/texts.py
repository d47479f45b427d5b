"""What is said in the digit world: short, because tokens are compute, and with the answer as a whole."""

from typing import Literal

import numpy as np

Language = Literal["en", "de", "fr", "es", "zh", "ja"]
Direction = Literal["left", "right", "up", "down"]
Speed = Literal["slow", "fast"]

# English is half of the samples; the others share the rest.
NUMBER_WORDS: dict[Language, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "zh": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九"),
    "ja": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九"),
}
# {n} is the digit, {word} its number word. A template with a word is used as often as one with the digit.
TEMPLATES: dict[str, dict[Language, tuple[str, ...]]] = {
    "read": {
        "en": ("What digit is this?", "Which digit?"),
        "de": ("Welche Ziffer ist das?",),
        "fr": ("Quel chiffre est-ce ?",),
        "es": ("¿Qué cifra es?",),
        "zh": ("这是什么数字？",),
        "ja": ("この数字は？",),
    },
    "caption": {
        "en": ("In words:",),
        "de": ("In Worten:",),
        "fr": ("En lettres :",),
        "es": ("En letras:",),
        "zh": ("汉字：",),
        "ja": ("漢字で：",),
    },
    "draw": {
        "en": ("Draw a {n}.", "Draw a {word}."),
        "de": ("Zeichne {n}.", "Zeichne {word}."),
        "fr": ("Dessine {n}.", "Dessine {word}."),
        "es": ("Dibuja {n}.", "Dibuja {word}."),
        "zh": ("画{n}。", "画{word}。"),
        "ja": ("{n}を描いて。", "{word}を描いて。"),
    },
    "draw_sum": {
        "en": ("Draw {a} + {b}.", "Draw the sum of {a} and {b}."),
        "de": ("Zeichne {a} + {b}.",),
        "zh": ("画{a} + {b}。",),
    },
    "add": {"en": ("{a} + {b} =",)},
    "scene_which": {
        "en": ("Which digit is {side}?",),
        "de": ("Welche Ziffer ist {side}?",),
        "zh": ("{side}是什么数字？",),
    },
    "scene_where": {
        "en": ("Where is the {n}?",),
        "de": ("Wo ist die {n}?",),
        "zh": ("{n}在哪边？",),
    },
    "scene_sum": {
        "en": ("Add them:",),
        "de": ("Addiere:",),
        "zh": ("相加：",),
    },
    "scene_draw": {
        "en": ("Draw {a} {relation} {b}.",),
        "de": ("Zeichne {a} {relation} {b}.",),
        "zh": ("画{a}在{b}{relation}。",),
    },
    "animate": {
        "en": ("A {n} moving {direction}, {speed}.", "A {word} moving {direction}, {speed}."),
        "de": ("Eine {n} läuft {speed} nach {direction}.",),
        "zh": ("{n}{speed}向{direction}移动。",),
    },
    "film_direction": {
        "en": ("Which way?",),
        "de": ("Wohin?",),
        "zh": ("向哪边？",),
    },
    "film_speed": {
        "en": ("How fast?",),
        "de": ("Wie schnell?",),
        "zh": ("多快？",),
    },
    "film_digit": {
        "en": ("Which digit moves?",),
        "de": ("Welche Ziffer läuft?",),
        "zh": ("哪个数字在动？",),
    },
    "next": {"en": ("Draw the next digit.",), "de": ("Zeichne die nächste Ziffer.",), "zh": ("画下一个数字。",)},
    "copy": {"en": ("Draw it again.",), "de": ("Zeichne sie noch einmal.",), "zh": ("再画一个。",)},
    "listen": {
        "en": ("Which digit do you hear?", "Which digit is said?"),
        "de": ("Welche Ziffer hörst du?",),
        "fr": ("Quel chiffre entends-tu ?",),
        "es": ("¿Qué cifra oyes?",),
        "zh": ("听到什么数字？",),
        "ja": ("聞こえた数字は？",),
    },
    "transcribe": {
        "en": ("Write what you hear.",),
        "de": ("Schreib, was du hörst.",),
        "fr": ("Écris ce que tu entends.",),
        "es": ("Escribe lo que oyes.",),
        "zh": ("写下听到的。",),
        "ja": ("聞こえた言葉を書いて。",),
    },
    "listen_sum": {"en": ("What is the sum?",), "de": ("Was ist die Summe?",), "zh": ("和是多少？",)},
    "speak": {
        "en": ("Say {n}.", "Say {word}."),
        "de": ("Sag {n}.", "Sag {word}."),
        "fr": ("Dis {n}.", "Dis {word}."),
        "es": ("Di {n}.", "Di {word}."),
        "zh": ("说{n}。", "说{word}。"),
        "ja": ("{n}と言って。", "{word}と言って。"),
    },
    "speak_two": {"en": ("Say {a} {b}.",), "de": ("Sag {a} {b}.",), "zh": ("说{a} {b}。",)},
    "draw_heard": {"en": ("Draw what you hear.",), "de": ("Zeichne, was du hörst.",), "zh": ("画听到的数字。",)},
    "say_seen": {"en": ("Say what you see.",), "de": ("Sag, was du siehst.",), "zh": ("说看到的数字。",)},
    "add_seen_heard": {
        "en": ("Add what you see to what you hear.",),
        "de": ("Addiere, was du siehst und hörst.",),
        "zh": ("看到的加听到的。",),
    },
}
# Two number words as a sum, as it is said; in Japanese in kana, which is what eSpeak NG reads.
SPOKEN_SUMS: dict[Language, str] = {
    "en": "{} plus {}",
    "de": "{} plus {}",
    "fr": "{} plus {}",
    "es": "{} más {}",
    "zh": "{}加{}",
    "ja": "{}たす{}",
}
# A place or movement as an answer, or in a question about it.
SIDES: dict[Language, dict[str, str]] = {
    "en": {"left": "left", "right": "right", "above": "above", "below": "below"},
    "de": {"left": "links", "right": "rechts", "above": "oben", "below": "unten"},
    "zh": {"left": "左边", "right": "右边", "above": "上边", "below": "下边"},
}
RELATIONS: dict[Language, dict[str, str]] = {
    "en": {"left": "left of", "right": "right of", "above": "above", "below": "below"},
    "de": {"left": "links von", "right": "rechts von", "above": "über", "below": "unter"},
    "zh": SIDES["zh"],
}
DIRECTIONS: dict[Language, dict[Direction, str]] = {
    "en": {"left": "left", "right": "right", "up": "up", "down": "down"},
    "de": {"left": "links", "right": "rechts", "up": "oben", "down": "unten"},
    "zh": {"left": "左", "right": "右", "up": "上", "down": "下"},
}
SPEED_ADVERBS: dict[Language, dict[Speed, str]] = {
    "en": {"slow": "slowly", "fast": "fast"},
    "de": {"slow": "langsam", "fast": "schnell"},
    "zh": {"slow": "慢慢", "fast": "快速"},
}
SPEEDS: dict[Language, dict[Speed, str]] = {
    "en": {"slow": "slow", "fast": "fast"},
    "de": {"slow": "langsam", "fast": "schnell"},
    "zh": {"slow": "慢", "fast": "快"},
}


def choose_language(task: str, rng: np.random.Generator) -> Language:
    """One that the task is told in: English half of the time."""
    languages = list(TEMPLATES[task])
    others = len(languages) - 1
    return languages[0 if not others or rng.random() < 0.5 else 1 + rng.integers(others)]


def say(task: str, language: Language, rng: np.random.Generator, n: int | None = None, **words: object) -> str:
    """One of the task's templates, filled in; `n` fills {n} and {word}."""
    templates = TEMPLATES[task][language]
    word = "" if n is None else NUMBER_WORDS[language][n]
    return templates[rng.integers(len(templates))].format(n=n, word=word, **words)
