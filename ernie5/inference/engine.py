"""Answers many requests at once: each step reads what their loops want, whatever they make."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import paddle

from ernie5.errors import Fault, UserError
from ernie5.inference.coders import SIGHT
from ernie5.inference.loops import make_loop
from ernie5.inference.page_pool import OutOfPages, PagePool
from ernie5.inference.prompt import Prompt, check_coders, encode_prompt
from ernie5.inference.reading import Draft, Piece, Reader, Reads
from ernie5.inference.request import Event, Finished, Request, Statistics, Usage
from ernie5.inference.task import Loop, Task
from ernie5.layers.pages import PAGE_KEYS, Pages
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.tokenizers.text import TextTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How much an engine does at once."""

    max_pages: int = 4096  # of 64 tokens each, for all requests together; memory is taken as it is needed
    max_running: int = 64  # requests that are answered at once; more of them wait
    max_step_tokens: int = 1024  # that one step reads: long prompts are read in pieces, beside the words of others
    speculate: bool = False  # guess words with the prediction block and read them ahead; the text stays the same
    share_prefixes: bool = True  # what has been read for one request serves the next that begins like it


@dataclass(eq=False)
class _Running:
    """A request on its way."""

    number: int
    task: Task
    make_loop: Callable[[], Loop]
    first_pages: int  # that it needs to begin
    has_begun: bool = False  # once, though it may have lost its pages since
    loop: Loop | None = None
    wants: Reads | Draft | None = None


class Engine:
    """Owned by one thread. The model is in evaluation mode, and nobody trains it meanwhile."""

    def __init__(
        self,
        model: Ernie5ForCausalLM,
        tokenizer: TextTokenizer | None,
        coders: Coders = SIGHT,
        settings: EngineSettings | None = None,
        subnet: Subnet | None = None,
    ):
        """subnet: any member of the elastic family; the full model by default.

        Raises UserError for a setting that the model cannot follow.
        """
        self.model, self.tokenizer, self.coders = model, tokenizer, coders
        self.settings = settings or EngineSettings()
        subnet = subnet or full_subnet(model.config)
        attention, dtype = model.config.attention, model.dtype
        kv_shape = attention.num_key_value_heads, attention.head_dim
        if self.settings.speculate and model.mtp is None:
            raise UserError(
                "speculate: the model has no prediction block (num_nextn_predict_layers is 0): leave it out"
            )
        pages = Pages(subnet.layer_ids, kv_shape, dtype)
        draft_pages = Pages([model.mtp.layer_id], kv_shape, dtype) if self.settings.speculate else None
        others = [] if draft_pages is None else [draft_pages]
        self.pool = PagePool(pages, self.settings.max_pages, others, self.settings.share_prefixes)
        self.reader = Reader(model, subnet, pages, draft_pages)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []  # those that began first stand first
        self._count = 0
        self._totals = dict.fromkeys(
            ("steps", "tokens_read", "prompt_tokens", "cached_tokens", "begun_anew", "drafted", "accepted"), 0
        )

    def submit(self, request: Request) -> int:
        """The number of a request, under which events will speak of it.

        Raises UserError for media that cannot be read or made, and for more than there is room for.
        """
        prompt = self.prompt_of(request)
        task = Task(self.model, self.tokenizer, self.coders, request, self.pool, self.settings.speculate)
        words = request.config.max_new_tokens if request.begin == "text" else 0
        return self.start(task, make_loop(task, prompt), len(prompt), words)

    def prompt_of(self, request: Request) -> Prompt:
        """Its tokens, as `submit` counts them. Raises UserError for media that cannot be read."""
        check_coders(self.model, request.prompt, self.coders)
        return Prompt(encode_prompt(self.model, self.tokenizer, request.prompt), self.coders)

    def start(self, task: Task, loop: Callable[[], Loop], prompt_tokens: int, words: int = 0) -> int:
        """As `submit`, with a loop of one's own, which reads a prompt and about so many words."""
        if -(-(prompt_tokens + words) // PAGE_KEYS) > self.settings.max_pages:
            raise UserError(
                f"prompt and answer may have {prompt_tokens + words} tokens together, and there is room for "
                f"{self.settings.max_pages * PAGE_KEYS}: shorten the prompt, or lower max_new_tokens"
            )
        self._count += 1
        self._waiting.append(_Running(self._count, task, loop, -(-prompt_tokens // PAGE_KEYS) + 1))
        return self._count

    def cancel(self, number: int) -> None:
        """Ends a request; its pages are free at once, and the next step tells of its end."""
        for running in [*self._waiting, *self._running]:
            if running.number == number:
                running.task.cancelled = True
                running.task.close()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    def statistics(self) -> Statistics:
        """Of all requests so far."""
        return Statistics(
            waiting=len(self._waiting),
            running=len(self._running),
            pages=self.pool.held,
            max_pages=self.settings.max_pages,
            known_pages=self.pool.num_known,
            expert_use={layer_id: load.copy() for layer_id, load in self.reader.expert_use.items()},
            **self._totals,
        )

    @paddle.no_grad()
    def step(self) -> list[Event]:
        """Reads once for all that run, and tells what came of it."""
        events: list[Event] = []
        self._remove_cancelled(events)
        self._admit(events)
        self._guess(events)
        pieces = self._reserve(self._plan(), events)
        if pieces:
            self._read(pieces, events)
        self._totals["steps"] += 1
        return events

    def run(self) -> Iterator[Event]:
        """Steps until there is nothing to do."""
        while not self.is_idle:
            yield from self.step()

    def _remove_cancelled(self, events: list[Event]) -> None:
        for queue in (self._waiting, self._running):
            for running in [one for one in queue if one.task.cancelled]:
                queue.remove(running)
                events.append(Event(running.number, Finished("cancelled", _usage(running.task))))

    def _admit(self, events: list[Event]) -> None:
        """Begins waiting requests, in order, while there is room for what they read at first."""
        while self._waiting and len(self._running) < self.settings.max_running:
            if self._running and self.pool.available < self._waiting[0].first_pages:
                return
            running = self._waiting.popleft()
            running.loop = running.make_loop()
            self._running.append(running)
            self._advance(running, None, events)
            if running in self._running and not running.has_begun:
                running.has_begun = True
                self._totals["prompt_tokens"] += running.task.prompt_tokens
                self._totals["cached_tokens"] += running.task.cached_tokens

    def _guess(self, events: list[Event]) -> None:
        """What the prediction block says to all that ask it."""
        asking = [running for running in self._running if isinstance(running.wants, Draft)]
        ready = []
        for running in asking:
            if self._make_room(running, [running.wants.sequence], 2, events):
                ready.append(running)
        ready = [running for running in ready if isinstance(running.wants, Draft)]  # others may have lost their pages
        if ready:
            for running, word in zip(ready, self.reader.guess([running.wants for running in ready]), strict=True):
                self._advance(running, word, events)

    def _plan(self) -> list[tuple[_Running, list[Piece]]]:
        """What is read next: small reads first, then pieces of large ones, up to the number of tokens of a step."""
        reading = [running for running in self._running if isinstance(running.wants, Reads)]
        reading.sort(key=lambda running: sum(read.left for read in running.wants.reads) > PAGE_KEYS)
        plan, room = [], self.settings.max_step_tokens
        for running in reading:
            pieces = []
            for read in running.wants.reads:
                if not read.left or (room <= 0 and (plan or pieces) and not running.wants.choose):
                    continue
                pieces.append(Piece(read, read.next_end(max(room, 1))))
                room -= pieces[-1].last - read.done
            if pieces:
                plan.append((running, pieces))
        return plan

    def _reserve(
        self, plan: list[tuple[_Running, list[Piece]]], events: list[Event]
    ) -> list[tuple[_Running, list[Piece]]]:
        """Gets pages for the plan, and embeds it; what remains of it."""
        kept = []
        for running, pieces in plan:
            if running not in self._running or not isinstance(running.wants, Reads):
                continue  # it has lost its pages to one before it
            if all(self._make_room(running, [piece.read.sequence], piece.num_tokens, events) for piece in pieces):
                try:
                    kept.append((running, [piece.with_embedded(self.model) for piece in pieces]))
                except Exception as error:
                    self._finish(running, _failed(running, error), events)
        return [(running, pieces) for running, pieces in kept if running in self._running and running.wants is not None]

    def _make_room(self, running: _Running, sequences: Sequence, count: int, events: list[Event]) -> bool:
        """Whether the sequences have pages for so many more tokens, if need be those of the youngest request."""
        while running in self._running:
            try:
                for sequence in sequences:
                    sequence.reserve(count)
                return True
            except OutOfPages as error:
                youngest = self._running[-1]
                if len(self._running) == 1:
                    self._finish(running, _failed(running, UserError(f"{error}: ask for less")), events)
                    return False
                self._running.remove(youngest)
                youngest.task.begin_anew()
                youngest.loop = youngest.wants = None
                self._waiting.appendleft(youngest)
                self._totals["begun_anew"] += 1
        return False

    def _read(self, plan: list[tuple[_Running, list[Piece]]], events: list[Event]) -> None:
        pieces, speaking = [], []
        for running, own in plan:
            if running.wants.choose is not None:
                speaking.append((range(len(pieces), len(pieces) + len(own)), running.wants.choose))
            pieces += own
        self._totals["tokens_read"] += sum(piece.num_tokens for piece in pieces)
        try:
            answers = self.reader.run(pieces, speaking)
        except Exception as error:  # nobody knows what their pages hold now
            for running, own in plan:
                for piece in own:
                    piece.read.sequence.distrust()
                self._finish(running, _failed(running, error), events)
            return
        of_read = {id(piece.read): answer for piece, answer in zip(pieces, answers, strict=True)}
        for running, _ in plan:
            reads = running.wants.reads
            running.task.answers |= {id(read): of_read[id(read)] for read in reads if id(read) in of_read}
            if not any(read.left for read in reads):
                found = [running.task.answers[id(read)] for read in reads]
                running.task.answers = {}
                self._advance(running, found, events)

    def _advance(self, running: _Running, answer: object, events: list[Event]) -> None:
        """Lets a loop go on to what it wants next."""
        task, drafted, accepted = running.task, running.task.drafted, running.task.accepted
        end = None
        try:
            running.wants = running.loop.send(answer)
        except StopIteration:
            end = Finished(task.reason, _usage(task))
        except Exception as error:  # of one loop; it must not take the others with it
            end = _failed(running, error)
        self._totals["drafted"] += task.drafted - drafted
        self._totals["accepted"] += task.accepted - accepted
        events += [Event(running.number, piece) for piece in task.take_pieces()]
        if end is not None:
            self._finish(running, end, events)

    def _finish(self, running: _Running, end: Finished, events: list[Event]) -> None:
        self._running.remove(running)
        running.task.close()
        running.loop = running.wants = None
        events.append(Event(running.number, end))


def _failed(running: _Running, error: Exception) -> Finished:
    if isinstance(error, UserError | Fault):
        return Finished("failed", _usage(running.task), str(error), is_refused=isinstance(error, UserError))
    logger.error("request %d failed", running.number, exc_info=error)
    return Finished("failed", _usage(running.task), f"{type(error).__name__}: {error}")


def _usage(task: Task) -> Usage:
    return Usage(task.prompt_tokens, task.cached_tokens, task.completion_tokens)
