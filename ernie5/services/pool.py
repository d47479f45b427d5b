"""Workers on Ray that encode media for one process of a run (report §5.1: tokenizers run apart from the backbone).

Each request is a task in the queue of one actor, so workers go on while the backbone computes and no thread is needed
here. A worker that fails is replaced and what it has not answered is asked again; answers are functions of the request,
so that changes nothing but the time.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from ernie5.errors import Fault, UserError
from ernie5.services.media import EncodedMedia, EncodeRequest, described, num_bytes, to_tensors
from ernie5.services.worker import EncodingWorker, WorkerSetup

logger = logging.getLogger(__name__)

TRIES = 3  # of one request, and of workers that begin one after the other
LONGEST_START = 300.0  # seconds until a worker has a place and its networks
LOOK_ROUND = 5.0  # seconds after which one that waits for a worker looks whether Ray is still there
LONGEST_ANSWER = 600.0  # seconds until a worker that is asked is taken for hung


@dataclass(eq=False)
class Ticket:
    """A request on its way."""

    request: EncodeRequest
    worker: "_Worker"
    reference: Any  # Ray's, to the answer
    failures: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Worker:
    """An actor and what it was asked, in order. It works on one request at a time, in that order."""

    actor: Any
    loaded: Any  # Ray's reference to its identity
    is_known: bool = False  # whether its identity was found right
    tickets: list[Ticket] = field(default_factory=list)


@dataclass
class PoolUse:
    """What a pool has done."""

    requests: int = 0
    replaced: int = 0  # workers
    waited: float = 0.0  # seconds for answers
    sent: int = 0  # bytes of pixels and samples
    received: int = 0  # bytes of codes


class EncodingPool:
    """Takes requests and gives their answers, while Ray is connected. UserError for workers that are not as expected.

    expected: the `identity` that the training process finds of its own networks.
    """

    def __init__(self, setup: WorkerSetup, expected: dict[str, str], num_workers: int, gpus_per_worker: float = 0):
        import ray

        self._ray, self._setup, self._expected = ray, setup, expected
        self._actor_class = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(EncodingWorker)
        self._failed_starts: list[str] = []
        self.use = PoolUse()
        self.workers = [self._start() for _ in range(num_workers)]
        for place in range(num_workers):
            while not self._is_ready(self.workers[place]):
                self._replace(self.workers[place])

    def submit(self, request: EncodeRequest) -> Ticket:
        """Asks the worker that has the least to do; returns at once."""
        ticket = Ticket(request, None, None)
        self._ask(ticket)
        self.use.requests += 1
        self.use.sent += request.num_bytes
        return ticket

    def result(self, ticket: Ticket) -> EncodedMedia:
        """Waits for the answer; a ticket is good for one.

        Fault if a request fails TRIES times, or workers do not start. UserError for media that the tokenizers refuse,
        as they would here.
        """
        start = time.perf_counter()
        while (answer := self._answer(ticket)) is None:
            self._recover(ticket.worker)
        ticket.worker.tickets.remove(ticket)
        self.use.waited += time.perf_counter() - start
        self.use.received += num_bytes(answer)
        return to_tensors(answer)

    def close(self) -> None:
        """Ends the workers, and says what they did."""
        for worker in self.workers:
            self._ray.kill(worker.actor)
        self.workers = []
        use = self.use
        logger.info(
            "services: %d requests, %.1f s of waiting for them, %.1f MB sent, %.1f MB received, %d workers replaced",
            *(use.requests, use.waited, use.sent / 1e6, use.received / 1e6, use.replaced),
        )

    def _start(self) -> _Worker:
        actor = self._actor_class.remote(self._setup)
        return _Worker(actor, actor.load.remote())

    def _ask(self, ticket: Ticket) -> None:
        worker = min(self.workers, key=self._load)
        ticket.worker, ticket.reference = worker, worker.actor.encode.remote(ticket.request)
        worker.tickets.append(ticket)

    def _load(self, worker: _Worker) -> int:
        """Requests that it has not answered yet."""
        references = [ticket.reference for ticket in worker.tickets]
        if not references:
            return 0
        return len(self._ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)[1])

    def _answer(self, ticket: Ticket) -> EncodedMedia | None:
        """None if the worker failed; why is noted in the ticket by `_recover`."""
        if not ticket.worker.is_known and not self._is_ready(ticket.worker):
            return None
        return self._get(ticket.reference, LONGEST_ANSWER)[0]

    def _get(self, reference: Any, timeout: float) -> tuple[Any, str]:
        """What Ray has, or None and why. UserError is passed on."""
        try:
            return self._ray.get(reference, timeout=timeout), ""
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(f"{error.cause} (said by a worker of services)") from None
            return None, str(error.cause or error)
        except self._ray.exceptions.GetTimeoutError:
            return None, "no answer in time"
        except self._ray.exceptions.RayError as error:
            return None, _sentence(error)

    def _is_ready(self, worker: _Worker) -> bool:
        """Whether it has loaded its networks; UserError if they are others than the run's."""
        deadline = time.monotonic() + LONGEST_START
        while not self._ray.wait([worker.loaded], timeout=LOOK_ROUND)[0] and time.monotonic() < deadline:
            self._require_ray()
        found, why = self._get(worker.loaded, 0)
        if found is None:
            self._failed_starts.append(why)
            if len(self._failed_starts) >= TRIES:
                has = {name: self._ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
                raise Fault(
                    f"services: {TRIES} workers did not start ({why}), and the cluster has {has}: "
                    "see what Ray logs there, and lower services.num_workers or services.gpus_per_worker"
                )
            return False
        wrong = [name for name, value in self._expected.items() if found.get(name) != value]
        if wrong:
            name = wrong[0]
            raise UserError(
                f"services: a worker's {name} is {found.get(name, 'missing')}, but this run's is "
                f"{self._expected[name]}: give its machine the same folders and the same versions"
            )
        worker.is_known, self._failed_starts = True, []
        return True

    def _require_ray(self) -> None:
        """Fault if Ray has ended on this machine: nothing would ever start."""
        here = self._ray.get_runtime_context().get_node_id()
        if not any(node["NodeID"] == here and node["Alive"] for node in self._ray.nodes()):
            raise Fault("services: Ray has ended on this machine: see its logs, start it again and resume")

    def _recover(self, lost: _Worker) -> None:
        """A new worker for one that failed; others, or that, are asked for what it has not answered."""
        if lost not in self.workers:
            self._ask_again([ticket for ticket in lost.tickets if self._get(ticket.reference, 0)[0] is None], lost)
            return
        failed = []
        for ticket in lost.tickets:
            answer, why = self._get(ticket.reference, 0)
            if answer is None:
                failed.append((ticket, why))
        if failed and lost.is_known:  # it works in order: the first without an answer is what it failed at
            self._count(*failed[0])
        self._replace(lost)
        self._ask_again([ticket for ticket, _ in failed], lost)

    def _count(self, ticket: Ticket, why: str) -> None:
        ticket.failures.append(why)
        media = ", ".join(map(described, ticket.request.media))
        logger.warning("services: a worker failed and is replaced: %s", why)
        if len(ticket.failures) >= TRIES:
            raise Fault(f"services: {TRIES} workers failed one after the other at {media}: {why}")

    def _replace(self, lost: _Worker) -> None:
        self._ray.kill(lost.actor)
        self.workers[self.workers.index(lost)] = self._start()
        self.use.replaced += 1

    def _ask_again(self, tickets: list[Ticket], lost: _Worker) -> None:
        for ticket in tickets:
            lost.tickets.remove(ticket)
            self._ask(ticket)


def _sentence(error: Exception) -> str:
    """The first line of a message of Ray's, which go on with where its logs are."""
    return " ".join(str(error).split("\n\n")[0].split())[:500]
