"""Steps made ready: rows are read, and their media sent to be encoded, some steps before they are trained on."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ernie5.config.schema import StageConfig
from ernie5.data.loader import Loader
from ernie5.errors import Fault, UserError
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import UnifiedSequence
from ernie5.parallel.data_parallel import Ranks
from ernie5.services.media import answering_coders, make_request
from ernie5.services.pool import EncodingPool, Ticket
from ernie5.train.schedule import batch_rows


class PreparedStep(NamedTuple):
    """What one optimizer step trains on."""

    rows: UnifiedSequence  # [batch, seq], of all processes
    batches: list[Batch]  # of this one
    vision_bits: int
    loader_state: dict  # behind these rows, whatever was read ahead since; empty but on the first process


class _Read(NamedTuple):
    """A step whose rows are there, or the error that reading them ended in."""

    place: int  # steps of the stage before it
    rows: UnifiedSequence | None
    error: UserError | Fault | None
    vision_bits: int
    loader_state: dict
    parts: list[UnifiedSequence]
    tickets: list[Ticket | None]


class PreparedSteps:
    """The steps of a run in order. Up to `ahead` are on their way behind the one that is given out.

    share: stacked rows -> those of this process; bits: (stage, step of the stage) -> bits of the vision tokenizer in
    use; coders: (stage, bits) -> what encodes where there is no pool. What is read ahead is of one stage. An error in
    it comes when its step does.
    """

    def __init__(
        self,
        loader: Loader | None,  # of the first process
        ranks: Ranks,
        share: Callable[[UnifiedSequence], UnifiedSequence],
        bits: Callable[[StageConfig, int], int],
        coders: Callable[[StageConfig, int], Coders],
        pool: EncodingPool | None = None,
        ahead: int = 0,
    ):
        self._loader, self._ranks, self._share = loader, ranks, share
        self._bits, self._coders, self._pool, self._ahead = bits, coders, pool, ahead
        self.error: UserError | Fault | None = None  # of data, which all processes have met at the same step
        self._read: deque[_Read] = deque()
        self._next_tokens = 0  # of the stage, before the next step to be read

    def take(self, stage: StageConfig, step: int, tokens: int) -> PreparedStep:
        """The step of a stage that has done `step` of them, and trained on `tokens`.

        Raises UserError and Fault of data, and Fault of a pool whose workers fail.
        """
        if not self._read or self._read[0].place != step:
            self._read.clear()
            self._next_tokens = tokens
        self._read_ahead(stage, step)
        taken = self._read.popleft()
        self.error = taken.error
        if taken.error is not None:
            raise taken.error
        if self._pool is None:
            coders = [self._coders(stage, taken.vision_bits)] * len(taken.parts)
        else:
            coders = [answering_coders(self._pool.result(t) if t is not None else None) for t in taken.tickets]
        batches = [make_batch(part, of_part) for part, of_part in zip(taken.parts, coders, strict=True)]
        return PreparedStep(taken.rows, batches, taken.vision_bits, taken.loader_state)

    def _read_ahead(self, stage: StageConfig, step: int) -> None:
        while len(self._read) <= self._ahead and self._next_tokens < stage.num_tokens:
            if self._read and self._read[-1].error is not None:
                return
            self._read.append(self._read_step(stage, step + len(self._read)))

    def _read_step(self, stage: StageConfig, place: int) -> _Read:
        """One process reads, for all: the work of encoding is done once. Each asks for the media of its own share."""
        found = self._ranks.from_first(self._rows(batch_rows(stage, self._next_tokens)))
        bits = self._bits(stage, place)
        if isinstance(found, Exception):
            return _Read(place, None, found, bits, {}, [], [])
        self._next_tokens += found.input_ids.size
        parts = self._share(found).split(stage.micro_batch_rows)
        tickets = [self._submitted(part, stage, bits) for part in parts] if self._pool is not None else []
        state = self._loader.state_dict() if self._loader is not None else {}
        return _Read(place, found, None, bits, state, parts, tickets)

    def _rows(self, num_rows: int) -> UnifiedSequence | UserError | Fault | None:
        """An error is a value, which goes to all processes: they must meet it at the same step."""
        if self._loader is None:
            return None
        try:
            return self._loader.next_rows(num_rows)
        except (UserError, Fault) as error:
            return error

    def _submitted(self, part: UnifiedSequence, stage: StageConfig, bits: int) -> Ticket | None:
        request = make_request(part, bits, stage.vision.scale_weight_power)
        return self._pool.submit(request) if request is not None else None
