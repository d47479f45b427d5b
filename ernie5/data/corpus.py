"""A corpus: documents found by their place in files, and read only when asked for."""

import os
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from ernie5.data.manifest import BadLine, parse_line
from ernie5.data.sample import Sample, Text
from ernie5.errors import UserError

PYDOC = "pydoc"  # the store that is no file: the topics of CPython's own documentation
LONG_LINE, REPEATED = 30, 0.05  # characters; share
FILE, START, END, LINE = range(4)  # columns of Corpus.spans


@dataclass(frozen=True, eq=False)
class Corpus:
    """The documents of one source. Small to pickle: it holds places, not texts.

    `spans` int64 [documents, 4]: index into `paths`, first byte, byte after the last, number of the first line.
    """

    name: str
    weight: float
    paths: tuple[str, ...]
    formats: tuple[Literal["jsonl", "text"], ...]  # of each path
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Sample:
        """Document `index`. Raises BadLine if it cannot be understood."""
        if self.is_text(index):
            return Sample(segments=(Text(self.text(index, 0, self.length(index))),), origin=self.origin(index))
        folder = os.path.dirname(self.paths[self.spans[index, FILE]])
        return parse_line(self.read(index, 0, self.length(index)), self.origin(index), folder)

    @property
    def num_bytes(self) -> int:
        return int((self.spans[:, END] - self.spans[:, START]).sum())

    def length(self, index: int) -> int:
        """Bytes of the document on disk."""
        return int(self.spans[index, END] - self.spans[index, START])

    def is_text(self, index: int) -> bool:
        """Whether the document is plain text, which may be cut anywhere between two characters."""
        return self.formats[self.spans[index, FILE]] == "text"

    def origin(self, index: int) -> str:
        file, _, _, line = self.spans[index].tolist()
        return f"{self.paths[file]}:{line}"

    def read(self, index: int, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of the document, both counted from its beginning."""
        file, first, last, _ = self.spans[index].tolist()
        path, size = self.paths[file], min(end, last - first) - start
        if path == PYDOC:
            return _pydoc_bytes()[first + start : first + start + size]
        try:
            data = _read_file(path, first + start, size)
        except OSError as error:
            raise UserError(f"{path}: can no longer be read ({error.strerror}): leave the data where it is") from None
        if len(data) < size:
            raise UserError(f"{path}: became shorter while it was in use: leave the data alone until the run has ended")
        return data

    def text(self, index: int, start: int, end: int) -> str:
        """Like `read`, decoded, with Windows line ends made plain."""
        data = self.read(index, start, end)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            position = int(self.spans[index, START]) + start + error.start
            raise BadLine(
                f"{self.origin(index)}: byte {position} of the file, 0x{data[error.start]:02x}, is not UTF-8: "
                "convert the file (iconv -t utf-8), or leave it out of the path if it is no text"
            ) from None
        return text.replace("\r\n", "\n")

    def select(self, indices: np.ndarray) -> "Corpus":
        """The corpus of these documents only."""
        return replace(self, spans=self.spans[indices])


def _read_file(path: str, start: int, size: int) -> bytes:
    handle = os.open(path, os.O_RDONLY)  # not kept: a corpus may have more files than a process may open
    try:
        data = b""
        while len(data) < size and (more := os.pread(handle, size - len(data), start + len(data))):
            data += more
        return data
    finally:
        os.close(handle)


@cache
def _pydoc_topics() -> dict[str, bytes]:
    """The topics by name, without those that repeat a longer one.

    A topic is a chapter of the reference or a part of one that stands in it verbatim; split by document, such a part
    would be trained on in the chapter and scored in the part. Of two topics that share more than REPEATED of the
    shorter one's long lines the longer stays.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept = []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        lines = [line.strip() for line in topics[name].splitlines() if len(line.strip()) > LONG_LINE]
        if sum(len(line) for line in lines if line in seen) <= REPEATED * sum(map(len, lines)):
            kept.append(name)
            seen.update(lines)
    return {name: topics[name].encode("utf-8") for name in sorted(kept)}


@cache
def _pydoc_bytes() -> bytes:
    return b"".join(_pydoc_topics().values())


def pydoc_corpus(name: str, weight: float) -> Corpus:
    """CPython's own documentation: a document a topic, in the order of their names."""
    try:
        ends = np.cumsum([len(text) for text in _pydoc_topics().values()])
    except ImportError:
        raise UserError(f"source {name}: {sys.executable} has no pydoc_data: install Python's documentation") from None
    starts = np.concatenate([[0], ends[:-1]])
    numbers = np.arange(1, len(ends) + 1)  # the topic's place stands in for a line
    spans = np.stack([np.zeros_like(ends), starts, ends, numbers], axis=1).astype(np.int64)
    return Corpus(name, weight, (PYDOC,), ("text",), spans)
