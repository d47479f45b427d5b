"""Steps made ready: rows are read, and their media sent to be encoded, some steps before they are trained on."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from paddle.distributed.communication.group import Group

from ernie5.config.schema import StageConfig
from ernie5.data.loader import Loader
from ernie5.errors import Fault, UserError
from ernie5.modality.batch import Batch, Coders
from ernie5.modality.unified import UnifiedSequence
from ernie5.parallel.data_parallel import Ranks
from ernie5.services.media import EncodedMedia, make_request
from ernie5.services.pool import EncodingPool, Ticket
from ernie5.train.encoding import encode_with, is_own, make_batches
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
    tickets: dict[int, Ticket | None]  # of the parts that this process has encoded


class PreparedSteps:
    """The steps of a run in order. Up to `ahead` are on their way behind the one that is given out.

    share: (stacked rows, rows of a micro-batch) -> the micro-batches of this process, and of all of `row_group`; bits:
    (stage, step of the stage) -> bits of the vision tokenizer in use; coders: (stage, bits) -> what encodes where there
    is no pool. What is read ahead is of one stage. An error in it comes when its step does.
    """

    def __init__(
        self,
        loader: Loader | None,  # of the first process
        ranks: Ranks,
        share: Callable[[UnifiedSequence, int], list[UnifiedSequence]],
        bits: Callable[[StageConfig, int], int],
        coders: Callable[[StageConfig, int], Coders],
        pool: EncodingPool | None = None,
        ahead: int = 0,
        row_group: Group | None = None,
    ):
        self._loader, self._ranks, self._share = loader, ranks, share
        self._bits, self._coders, self._pool, self._ahead = bits, coders, pool, ahead
        self._row_group = row_group
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
            encode = encode_with(self._coders(stage, taken.vision_bits), taken.parts)
        else:
            encode = partial(self._answer, taken)
        batches = make_batches(taken.parts, encode, self._row_group)
        return PreparedStep(taken.rows, batches, taken.vision_bits, taken.loader_state)

    def _read_ahead(self, stage: StageConfig, step: int) -> None:
        while len(self._read) <= self._ahead and self._next_tokens < stage.num_tokens:
            if self._read and self._read[-1].error is not None:
                return
            self._read.append(self._read_step(stage, step + len(self._read)))

    def _read_step(self, stage: StageConfig, place: int) -> _Read:
        """One process reads, for all: the work of encoding is done once. Those who share rows share what they ask."""
        found = self._ranks.from_first(self._rows(batch_rows(stage, self._next_tokens)))
        bits = self._bits(stage, place)
        if isinstance(found, Exception):
            return _Read(place, None, found, bits, {}, [], {})
        self._next_tokens += found.input_ids.size
        parts = self._share(found, stage.micro_batch_rows)
        own = {n: part for n, part in enumerate(parts) if self._pool is not None and is_own(n, self._row_group)}
        tickets = {number: self._submitted(part, stage, bits) for number, part in own.items()}
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

    def _answer(self, taken: _Read, number: int) -> EncodedMedia | None:
        ticket = taken.tickets[number]
        return self._pool.result(ticket) if ticket is not None else None
