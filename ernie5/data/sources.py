"""Opens what a SourceConfig names: finds the files and where their documents lie."""

import glob
import logging
import os
from array import array
from pathlib import Path

import numpy as np

from ernie5.config.schema import SourceConfig
from ernie5.data.corpus import PYDOC, Corpus, pydoc_corpus
from ernie5.data.manifest import BadLine
from ernie5.errors import UserError

logger = logging.getLogger(__name__)

CHECK_BYTES = 64 << 20  # corpora up to this size are checked whole when opened, which takes seconds
_BOM = b"\xef\xbb\xbf"
_SHOWN = 5  # malformed lines that a summary quotes


def open_source(source: SourceConfig) -> Corpus:
    """The corpus of a source. Raises UserError if nothing is there or no document is found."""
    if source.format == "pydoc" or (source.format == "auto" and source.path == PYDOC):
        return pydoc_corpus(source.name, source.weight)
    paths = find_files(source)
    formats = tuple(_format_of(path, source) for path in paths)
    spans = array("q")
    for i, (path, kind) in enumerate(zip(paths, formats, strict=True)):
        separator = "line" if kind == "jsonl" else source.document_separator
        _index_file(path, i, separator, spans)
    if not spans:
        raise UserError(f"source {source.name}: {source.path} holds no document: name a file that is not empty")
    return Corpus(source.name, source.weight, paths, formats, np.frombuffer(spans, dtype=np.int64).reshape(-1, 4))


def find_files(source: SourceConfig) -> tuple[str, ...]:
    """The files of a source, sorted: the file itself, those below a folder, or a glob's matches.

    Of a folder without hidden ones and without links that lead out of it: who opens a folder opens nothing else.
    """
    path = Path(source.path)
    if path.is_file():
        return (str(path),)
    if path.is_dir():
        root = path.resolve()
        below = [file for file in path.rglob("*") if not _is_hidden(file.relative_to(path))]
        found = [file for file in below if file.resolve().is_relative_to(root)]
        if len(found) < len(below):
            logger.warning(
                "%s: %d links that lead out of it are left out: name what they lead to", path, len(below) - len(found)
            )
    else:
        found = [Path(match) for match in glob.glob(source.path, recursive=True)]
    files = tuple(sorted(str(file) for file in found if file.is_file()))
    if not files:
        what = "an empty folder" if path.is_dir() else "not a file, a folder or a glob that matches one"
        raise UserError(
            f"source {source.name}: {source.path} is {what} (seen from {os.getcwd()}): correct the source's path"
        )
    return files


def find_bad_lines(corpus: Corpus) -> list[BadLine]:
    """Reads every document and returns what is wrong with those that cannot be understood."""
    bad = []
    for i in range(len(corpus)):
        try:
            corpus[i]
        except BadLine as error:
            bad.append(error)
    return bad


def check_source(corpus: Corpus, bad_line: str) -> None:
    """Reads a corpus of up to CHECK_BYTES whole: raises its first bad line, or logs how many will be skipped.

    Larger ones are checked line by line as they are drawn, in the same way.
    """
    if corpus.num_bytes > CHECK_BYTES:
        logger.info("%s is large: its lines are checked as they come; tools/check_data.py checks all", corpus.name)
        return
    bad = find_bad_lines(corpus)
    if not bad:
        return
    if bad_line == "error":
        raise bad[0]
    if len(bad) == len(corpus):
        raise UserError(f"source {corpus.name}: every line is malformed, the first: {bad[0]}")
    causes = "; ".join(str(error) for error in bad[:_SHOWN])
    more = "; ..." if len(bad) > _SHOWN else ""
    logger.warning(
        "%s: %d of %d documents are malformed and left out: %s%s", corpus.name, len(bad), len(corpus), causes, more
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _format_of(path: str, source: SourceConfig) -> str:
    if source.format != "auto":
        return source.format
    if path.endswith(".json"):  # one value over many lines is neither form, and would be learned as if it were prose
        raise UserError(
            f"source {source.name}: {path} ends in .json: write it as JSONL, one object a line, or set its format"
        )
    return "jsonl" if path.endswith(".jsonl") else "text"


def _index_file(path: str, file_id: int, separator: str, spans: array) -> None:
    """Appends (file, start, end, line) of each document of a file; blank lines and a byte-order mark are left out."""
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): correct its permissions") from None
    with stream:
        position = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
        if separator == "file":
            size = os.fstat(stream.fileno()).st_size
            if size > position:
                spans.extend((file_id, position, size, 1))
            return
        stream.seek(position)
        is_open = False  # a document that the next line may continue
        for number, line in enumerate(stream, 1):
            end = position + len(line.rstrip(b"\r\n"))
            if not line.strip():
                is_open = False
            elif is_open and separator == "blank_line":
                spans[-2] = end
            else:
                spans.extend((file_id, position, end, number))
                is_open = True
            position += len(line)
