"""Tokens per language: our UTF-16BE BPE against a UTF-8 byte-level BPE of the same size, on the same text.

    python benchmarks/tokenizer_udhr.py --data DIR [--peer-python PYTHON] [--output FILE.md]

DIR holds one text file a language (the Universal Declaration of Human Rights, a paragraph a line). Both sides learn
from the even paragraphs of all languages and are counted on the odd ones. The peer runs in the Python given, which
needs Hugging Face's `tokenizers`.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import sentencepiece

from ernie5.errors import UserError
from ernie5.tokenizers.text import SPECIAL_TOKENS, jieba_segmenter, train_tokenizer
from ernie5.tokenizers.text.presplit import presplit

PEER = Path(__file__).with_name("byte_level_bpe.py")
VOCAB_SIZES = (8192, 15360)  # GPT-2's split finds about 15,500 in this text and no more
FAMILIES = {
    "Latin": "ces deu_1996 eng fin fra hun ind ita nld pol por_BR ron_2006 spa swe swh tur vie",
    "Cyrillic, Greek, Armenian, Georgian": "bul ell_monotonic hye kat rus ukr",
    "Arabic, Hebrew, Ethiopic": "amh arb heb pes_1 urd",
    "Indic": "ben hin kan mal mar sin tam tel",
    "Han, kana": "cmn_hans cmn_hant jpn",
    "Hangul": "kor",
    "Unspaced abugidas": "bod khm lao mya tha",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of {language}.txt")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with `tokenizers`")
    parser.add_argument("--output", type=Path, help="Markdown file; default: standard output")
    args = parser.parse_args()
    train, test = read_paragraphs(args.data)
    sections = [section(vocab_size, train, test, args.peer_python) for vocab_size in VOCAB_SIZES]
    page = "\n\n".join([header(train, test), *sections]) + "\n"
    if args.output:
        args.output.write_text(page, encoding="utf-8")
    else:
        print(page)


def read_paragraphs(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The even paragraphs of all languages, and the odd ones by language."""
    train, test = [], {}
    for path in sorted(folder.glob("*.txt")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        train += lines[0::2]
        test[path.stem] = lines[1::2]
    if not train:
        raise SystemExit(f"no {{language}}.txt in {folder}")
    return train, test


def section(vocab_size: int, train: list[str], test: dict[str, list[str]], peer_python: str) -> str:
    """The table of one vocabulary size."""
    start = time.perf_counter()
    own = train_tokenizer(train, vocab_size)
    seconds = time.perf_counter() - start
    ours = count(own, test)
    as_shipped = run_peer(peer_python, vocab_size, train, test)
    same_split = run_peer(
        peer_python,
        vocab_size,
        [part for line in train for part in presplit(line)],
        {language: [part for line in lines for part in presplit(line)] for language, lines in test.items()},
        own_split=True,
    )
    segmented = count_segmented(vocab_size, train, test)
    rows = [
        f"## Vocabulary {vocab_size}",
        f"Sizes reached: ours {own.vocab_size} (learned in {seconds:.1f} s), UTF-8 byte-level BPE with GPT-2's split "
        f"{as_shipped['vocab_size']}, with our split {same_split['vocab_size']}; `tokenizers` {as_shipped['version']}.",
        "",
        "| language | characters | ours | UTF-8, GPT-2 split | ratio | UTF-8, our split | ratio | ours with jieba |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    sides = ours, as_shipped["tokens"], same_split["tokens"], segmented
    for family, languages in FAMILIES.items():
        present = [language for language in languages.split() if language in test]
        rows += [table_row(language, [language], test, *sides) for language in present]
        if len(present) > 1:
            rows.append(table_row(f"**{family}**", present, test, *sides))
    rows.append(table_row("**all**", list(test), test, *sides))
    return "\n".join(rows[:1] + [""] + rows[1:])


def table_row(name, languages, test, ours, as_shipped, same_split, segmented) -> str:
    """Sums over languages; a ratio below 1 means that ours takes fewer tokens."""
    characters = sum(len(line) for language in languages for line in test[language])
    own, shipped, same = (sum(side[language] for language in languages) for side in (ours, as_shipped, same_split))
    cut = sum(segmented[language] for language in languages) if segmented else "-"
    return f"| {name} | {characters} | {own} | {shipped} | {own / shipped:.3f} | {same} | {own / same:.3f} | {cut} |"


def count(tokenizer, test: dict[str, list[str]]) -> dict[str, int]:
    return {language: sum(len(tokenizer.encode(line)) for line in lines) for language, lines in test.items()}


def count_segmented(vocab_size: int, train: list[str], test: dict[str, list[str]]) -> dict[str, int] | None:
    """Tokens when Chinese words are cut by jieba before merges are learned; None where it is not installed."""
    try:
        segmenter = jieba_segmenter()
    except UserError:
        return None
    return count(train_tokenizer(train, vocab_size, segmenter=segmenter), test)


def run_peer(python: str, vocab_size: int, train, test, own_split: bool = False) -> dict:
    job = {"vocab_size": vocab_size, "num_special": len(SPECIAL_TOKENS), "own_split": own_split}
    job |= {"train": train, "test": test}
    done = subprocess.run([python, str(PEER)], input=json.dumps(job), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def header(train: list[str], test: dict[str, list[str]]) -> str:
    size = sum(len(line.encode()) for line in train)
    return "\n".join(
        [
            "# Tokens per language: UTF-16BE BPE against UTF-8 byte-level BPE",
            "",
            f"{datetime.date.today()}, `{shlex.join(['python', *sys.argv])}`, "
            f"sentencepiece {sentencepiece.__version__}, Python {sys.version.split()[0]}.",
            "",
            f"{len(test)} languages of the Universal Declaration of Human Rights. Both sides learn from the even "
            f"paragraphs of all languages together ({size} bytes of UTF-8) and are counted on the odd ones. Both have "
            f"{len(SPECIAL_TOKENS)} special tokens and all bytes in the vocabulary, and learn what occurs at least "
            "twice. A ratio below 1: ours takes fewer tokens. "
            "A bold row is the sum over the languages above it.",
        ]
    )


if __name__ == "__main__":
    main()
