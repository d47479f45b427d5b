"""The report's pictures, sounds and texts: what the model made as it learned, and how it was judged."""

import base64
import json
import wave
from html import escape
from pathlib import Path
from typing import Any

from ernie5.train.metrics import FILE_NAME
from ernie5.train.report_page import card, table
from ernie5.train.spectrogram import spectrogram

MAX_SAMPLE_STEPS = 6  # steps whose samples are shown: the first, the last, and some between
SCORES_FILE = "scores.json"  # written into the run folder by tools/evaluate.py
MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".wav": "audio/wav"}

Record = dict[str, Any]


def samples_section(samples: list[Record], run_dir: Path) -> str:
    """The newest samples first; media are embedded, so that the page stays one file."""
    steps = sorted({record["step"] for record in samples})
    if not steps:
        return ""
    count = min(MAX_SAMPLE_STEPS, len(steps))
    chosen = sorted({steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)}, reverse=True)
    cards = []
    for step in chosen:
        of_step = [record for record in samples if record["step"] == step]
        texts = "".join(_text(record, run_dir) for record in of_step if not record.get("output_file"))
        made = "".join(_made(record, run_dir) for record in of_step if record.get("output_file"))
        made = f'<div class="drawings">{made}</div>' if made else ""
        cards.append(f'<div class="card sample"><h3>Step {step:,}</h3>{texts}{made}</div>')
    left_out = len(steps) - len(chosen)
    note = "The newest first; prompts in colour, what the model made of them after or above."
    note += f" {left_out} more in {FILE_NAME}." if left_out else ""
    return f'<h2>Samples</h2><p class="note">{note}</p>{"".join(cards)}'


def scores_section(run_dir: Path) -> str:
    """The judge's table with its pictures, where tools/evaluate.py has scored the run: `rows` and `pictures`."""
    path = run_dir / SCORES_FILE
    if not path.exists():
        return ""
    scores = json.loads(path.read_text(encoding="utf-8"))
    body = table(scores["header"], [[str(cell) for cell in row] for row in scores["rows"]])
    pictures = "".join(
        f"<figure>{shown}<figcaption>{escape(title)}</figcaption></figure>"
        for title, name in scores.get("pictures", {}).items()
        if (shown := _medium(run_dir, name, title))
    )
    drawings = f'<div class="drawings large">{pictures}</div>' if pictures else ""
    return f"<h2>Judged</h2>{card('The digit world', body, scores.get('note', ''))}{drawings}"


def _text(record: Record, run_dir: Path) -> str:
    taken = _medium(run_dir, record.get("input_file") or "", "what the model takes in")
    return f"{taken}<pre><b>{escape(record.get('prompt') or '')}</b>{escape(record.get('text') or '')}</pre>"


def _made(record: Record, run_dir: Path) -> str:
    prompt = record.get("prompt") or ""
    made = _medium(run_dir, record["output_file"], prompt)
    caption = f"<figcaption><b>{escape(prompt)}</b>{escape(record.get('text') or '')}</figcaption>"
    taken = _medium(run_dir, record.get("input_file") or "", "what the model takes in")
    return f"<figure>{made}{caption}{f'<figcaption>behind</figcaption>{taken}' if taken else ''}</figure>"


def _medium(run_dir: Path, name: str, alt: str) -> str:
    """A picture, or a sound to be played with its spectrogram; `alt` is text. Empty if there is none."""
    uri = _data_uri(run_dir, name) if name else ""
    if not uri:
        return ""
    if not uri.startswith("data:audio"):
        return f'<img src="{uri}" alt="{escape(alt)}">'
    return f'{_spectrogram(run_dir / name, alt)}<audio controls="" src="{uri}"></audio>'


def _spectrogram(path: Path, alt: str) -> str:
    try:
        picture = base64.b64encode(spectrogram(path)).decode()
    except (wave.Error, EOFError):
        return ""
    return f'<img src="data:image/png;base64,{picture}" alt="{escape(alt)}">'


def _data_uri(run_dir: Path, name: str) -> str:
    """The file as a data URI; empty where it is not there, no such medium, or not in the run folder."""
    path = run_dir / name
    kind = MEDIA_TYPES.get(path.suffix)
    if kind is None or not path.resolve().is_relative_to(run_dir.resolve()) or not path.is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
