"""Cuts training sources into a training and a validation part that share nothing."""

import os
from collections.abc import Sequence

import numpy as np

from ernie5.config.schema import DataConfig, SourceConfig
from ernie5.data.corpus import END, FILE, PYDOC, START, Corpus
from ernie5.data.shuffle import derive_key, permute
from ernie5.data.sources import check_source, open_source
from ernie5.errors import UserError


def open_splits(config: DataConfig, seed: int) -> tuple[list[Corpus], list[Corpus]]:
    """The training and the validation corpora of a run; validation is cut from training where none is configured."""
    train = _open_all(config.train, config.bad_line)
    if config.validation:
        validation = _open_all(config.validation, config.bad_line)
    else:
        cuts = [split_corpus(corpus, config.validation_fraction, config.validation_by, seed) for corpus in train]
        train, validation = [cut[0] for cut in cuts], [cut[1] for cut in cuts]
    _refuse_overlap(train, validation)
    return train, validation


def _refuse_overlap(train: Sequence[Corpus], validation: Sequence[Corpus]) -> None:
    """Raises UserError where a validation document holds bytes that are trained on."""
    trained = _spans_by_file(train)
    for path, held_out in _spans_by_file(validation).items():
        if path not in trained:
            continue
        spans = trained[path][np.argsort(trained[path][:, START])]
        furthest = np.maximum.accumulate(spans[:, END])  # two sources may name one file: spans need not be disjoint
        before = np.searchsorted(spans[:, START], held_out[:, END])  # training spans that begin before each one's end
        overlaps = (before > 0) & (furthest[before - 1] > held_out[:, START])
        if overlaps.any():
            first = int(np.argmax(overlaps))
            other = train[spans[np.argmax(spans[: before[first], END]), FILE]]
            raise UserError(
                f"{path}: documents of source {validation[held_out[first, FILE]].name!r} are validation and, in source "
                f"{other.name!r}, training; name other files, or name it once and let data.validation_fraction cut it"
            )


def _spans_by_file(corpora: Sequence[Corpus]) -> dict[str, np.ndarray]:
    """Real path -> the spans in that file, whatever names led to it; column FILE holds the corpus instead."""
    found: dict[str, list[np.ndarray]] = {}
    for number, corpus in enumerate(corpora):
        spans = corpus.spans[np.argsort(corpus.spans[:, FILE], kind="stable")]
        files, firsts = np.unique(spans[:, FILE], return_index=True)
        spans[:, FILE] = number
        for file, part in zip(files.tolist(), np.split(spans, firsts[1:]), strict=True):
            path = corpus.paths[file]
            found.setdefault(path if path == PYDOC else os.path.realpath(path), []).append(part)
    return {path: np.concatenate(parts) for path, parts in found.items()}


def split_corpus(corpus: Corpus, fraction: float, by: str, seed: int) -> tuple[Corpus, Corpus]:
    """A corpus -> (training part, validation part). `fraction` lies inside 0 and 1."""
    return split_tail(corpus, fraction) if by == "tail" else split_documents(corpus, fraction, seed)


def split_documents(corpus: Corpus, fraction: float, seed: int) -> tuple[Corpus, Corpus]:
    """Draws round(fraction * documents) of them, at least one, by (seed, source name, document)."""
    size = len(corpus)
    if size < 2:
        raise UserError(
            f"source {corpus.name} has 1 document, which cannot be split by document: set data.validation_by: tail, "
            "or document_separator, or name data.validation"
        )
    count = min(max(round(fraction * size), 1), size - 1)
    key = derive_key(seed, "split", corpus.name)
    held_out = np.zeros(size, dtype=bool)
    held_out[[permute(i, size, key) for i in range(count)]] = True
    return corpus.select(np.flatnonzero(~held_out)), corpus.select(np.flatnonzero(held_out))


def split_tail(corpus: Corpus, fraction: float) -> tuple[Corpus, Corpus]:
    """Cuts off the last share of the bytes, as nanoGPT does; inside a plain text at the next character.

    A manifest is cut at the next line.
    """
    lengths = corpus.spans[:, END] - corpus.spans[:, START]
    cut = int(corpus.num_bytes * (1 - fraction))  # bytes that are trained on
    ends = np.cumsum(lengths)
    index = int(np.searchsorted(ends, cut, side="right"))  # the document that holds the cut
    inside = cut - int(ends[index] - lengths[index])
    train, validation = corpus.spans[: index + 1].copy(), corpus.spans[index:].copy()
    if corpus.is_text(index):
        inside = _next_character(corpus, index, inside)
        train[-1, END] = validation[0, START] = corpus.spans[index, START] + inside
    else:
        validation = validation[1:]
    train, validation = (part[part[:, END] > part[:, START]] for part in (train, validation))
    if not len(train) or not len(validation):
        raise UserError(
            f"source {corpus.name} is too small to cut its last {fraction:.0%} off: add data, or name data.validation"
        )
    parts = (Corpus(corpus.name, corpus.weight, corpus.paths, corpus.formats, spans) for spans in (train, validation))
    return next(parts), next(parts)


def _next_character(corpus: Corpus, index: int, position: int) -> int:
    """The first place from `position` on where a UTF-8 character begins."""
    following = corpus.read(index, position, position + 4)
    return position + next((i for i, byte in enumerate(following) if byte & 0xC0 != 0x80), len(following))


def _open_all(sources: Sequence[SourceConfig], bad_line: str) -> list[Corpus]:
    corpora = [open_source(source) for source in sources]
    for corpus in corpora:
        check_source(corpus, bad_line)
    return corpora
