"""The endless stream of training rows, and where in it a run stands."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ernie5.config.schema import DataConfig
from ernie5.data.corpus import Corpus
from ernie5.data.encoder import Encoder, Skipped
from ernie5.data.media_settings import TEXT_ALONE, MediaSettings
from ernie5.data.mixture import Mixture
from ernie5.data.packing import Cursor, fill_row, is_too_long
from ernie5.data.pieces import Pieces
from ernie5.data.sequence import EncodedSample, Tokenizer
from ernie5.data.worker import WorkerPool
from ernie5.errors import UserError
from ernie5.modality.unified import UnifiedSequence, stack

logger = logging.getLogger(__name__)

# Of a row's bytes at a few bytes a token: a long text is drawn in pieces of some five rows, so a batch holds many texts
# and few rows hold a piece's beginning.
PIECE_BYTES_PER_TOKEN = 16
_NOTHING = EncodedSample(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), 0, "")


class Loader:
    """Rows of training data without end: weighted, shuffled, packed, and the same for every number of workers.

    A pure function of (corpora, tokenizer, seed, where it stands), so a resume goes on with the rows that would have
    come. `longest_seq_len` is that of all stages: samples must not change when the stage does. Use it in a `with`, or
    call `close`: it may own worker processes.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        max_seq_len: int,
        longest_seq_len: int,
        seed: int,
        bpe_dropout: float = 0.0,
        media: MediaSettings = TEXT_ALONE,
    ):
        piece_bytes = PIECE_BYTES_PER_TOKEN * longest_seq_len if config.too_long == "split" else 0
        pieces = [Pieces(corpus, piece_bytes, seed) for corpus in corpora]
        names, weights = [corpus.name for corpus in corpora], [corpus.weight for corpus in corpora]
        self._mixture = Mixture(names, [len(part) for part in pieces], weights, seed)
        self._encoder = Encoder(pieces, self._mixture, tokenizer, bpe_dropout, config.bad_line == "skip", media)
        self._config, self._pad_id = config, tokenizer.pad_id
        self._identity = {"seed": seed, "piece_bytes": piece_bytes, "bpe_dropout": bpe_dropout, "sources": names}
        for name, settings in media._asdict().items():
            if settings is not None:
                self._identity[name] = repr(settings.data)
        for corpus in corpora:
            places = hashlib.blake2b(corpus.spans.tobytes(), digest_size=8).hexdigest()
            facts = {"documents": len(corpus), "bytes": corpus.num_bytes, "places": places, "weight": corpus.weight}
            self._identity |= {f"{corpus.name}.{key}": value for key, value in facts.items()}
        self.max_seq_len = max_seq_len  # may be changed between two calls, for the next stage
        self.num_skipped = 0  # malformed lines left out so far
        self._cursor = Cursor()
        self._pool: WorkerPool | None = None
        self._held: tuple[int, EncodedSample] | None = None  # the sample that the last row ended in
        self._new_skips = 0  # since the last rows that were handed out
        self._skips_in_a_row = 0
        self._reported: set[str] = set()

    def next_rows(self, num_rows: int) -> UnifiedSequence:
        """The next rows, [num_rows, seq]. Raises UserError for data that cannot be used, Fault if a worker died.

        After an error the loader stands where it stood before the call.
        """
        cursor = replace(self._cursor)
        self._reserve(num_rows)
        try:
            rows = [self._next_row(cursor) for _ in range(num_rows)]
        except BaseException:
            self.close()
            raise
        self._cursor = cursor
        self.num_skipped += self._new_skips
        self._new_skips = 0
        return stack(rows)

    def state_dict(self) -> dict[str, Any]:
        """What was consumed (not what was prefetched), for JSON."""
        return {
            "next_sample": self._cursor.number,
            "offset": self._cursor.offset,
            "num_skipped": self.num_skipped,
            "epochs": self._mixture.epochs(self._cursor.number),
            "data": self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken. Raises UserError if the data is no longer the same."""
        before, now = state["data"], self._identity
        changed = [key for key in before | now if before.get(key) != now.get(key)]
        if changed:
            differences = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed)
            raise UserError(
                f"the data has changed since the checkpoint ({differences}): restore it, or start a new run from the "
                "checkpoint's weights"
            )
        self.close()
        self._cursor = Cursor(state["next_sample"], state["offset"])
        self.num_skipped = state["num_skipped"]

    def close(self) -> None:
        """Ends the worker processes; the next call of `next_rows` would start new ones."""
        if self._pool is not None:
            self._pool.close()
        self._pool = self._held = None
        self._new_skips = self._skips_in_a_row = 0

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _next_row(self, cursor: Cursor) -> UnifiedSequence:
        config = self._config
        return fill_row(cursor, self._sample, self.max_seq_len, self._pad_id, config.too_long, config.packing)

    def _reserve(self, num_rows: int) -> None:
        """Lets the workers run ahead by so many batches, and starts them if they are not running."""
        if not self._config.num_workers:
            return
        tokens = self._config.prefetch_batches * num_rows * self.max_seq_len
        if self._pool is None:
            self._pool = WorkerPool(self._encoder, self._config.num_workers, self._cursor.number, tokens)
        self._pool.max_tokens = tokens

    def _sample(self, number: int) -> EncodedSample:
        if self._held is not None and self._held[0] == number:
            return self._held[1]
        result = self._pool.get(number) if self._pool else self._encoder(number)
        skips = self._config.bad_line == "skip"
        if skips and isinstance(result, EncodedSample) and is_too_long(result, self.max_seq_len):
            result = Skipped(
                f"{result.origin}: its {len(result)} tokens hold media and fit no row of {self.max_seq_len}"
            )
        if isinstance(result, Skipped):
            self._leave_out(result.cause)
            result = _NOTHING
        else:
            self._skips_in_a_row = 0
        self._held = number, result
        return result

    def _leave_out(self, cause: str) -> None:
        if cause not in self._reported:  # once, not in every epoch
            logger.warning("left out: %s", cause)
        self._reported.add(cause)
        self._new_skips += 1
        self._skips_in_a_row += 1
        if self._skips_in_a_row > 2 * sum(self._mixture.sizes):  # every line has had its turn
            raise UserError(f"nothing but malformed lines, the last: {cause}")
