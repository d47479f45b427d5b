"""Cuts training sources into a training and a validation part that share nothing."""

import os
from collections.abc import Sequence

import numpy as np

from ernie5.config.schema import DataConfig, SourceConfig
from ernie5.data.corpus import END, FILE, START, Corpus
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
    for one in train:
        for other in validation:
            _refuse_overlap(one, other)
    return train, validation


def _refuse_overlap(train: Corpus, validation: Corpus) -> None:
    """Raises UserError where a validation document holds bytes that are trained on."""
    paths = [os.path.realpath(path) for path in train.paths]
    for file, path in enumerate(validation.paths):
        if os.path.realpath(path) not in paths:
            continue
        held_out = validation.spans[validation.spans[:, FILE] == file]
        trained = train.spans[train.spans[:, FILE] == paths.index(os.path.realpath(path))]
        trained = trained[np.argsort(trained[:, START])]
        if not len(trained):
            continue
        # the last training document that begins before a validation document ends; documents of a file are disjoint
        before = np.searchsorted(trained[:, START], held_out[:, END]) - 1
        if (trained[before.clip(min=0), END] > held_out[:, START])[before >= 0].any():
            raise UserError(
                f"{path}: documents of source {validation.name!r} are validation and, in source {train.name!r}, "
                "training; name other files, or name it once and let data.validation_fraction cut it"
            )


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
