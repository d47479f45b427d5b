"""Process groups for CPUs in place of Paddle's gloo, with all that fleet asks of one. On a GPU nothing here runs.

`install` makes Paddle build its groups from here: Python objects with the methods of `core.ProcessGroupGloo`, over one
TCP connection between every two processes. What they bring that Paddle 3.3.1 lacks on a CPU:

- any number of groups (gloo's second group reads the first one's keys in the store and hangs);
- sends that do not wait for their receiver, as interleaved pipelines need, and messages that are matched by group and
  sender (gloo's tags count the calls of a rank, so that groups of more than two get out of step);
- all-to-all with any sizes, reduce-scatter, gathers into one tensor, parts of tensors, and the `_on_calc_stream` forms,
  all of which gloo has not got; every byte is sent once, and counted (`bytes_sent`);
- the same bits on all ranks, as sums are in the order of the ranks, however many there are;
- a process that ends is noticed by the others at once, and named.
"""

import ctypes
import math
import os
import secrets
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np
import paddle
from paddle import Tensor
from paddle.base import core
from paddle.distributed import collective, parallel

from ernie5.parallel.processes import peer_lost
from ernie5.parallel.roll_call import patience as patience_to_join

PATIENCE = 1800.0  # seconds that a message is waited for; ERNIE5_COMM_TIMEOUT
WHOLE = 1 << 16  # bytes up to which a sum is made by everybody of everything: one round of messages instead of two
AT_ONCE = 1 << 22  # bytes of a larger sum that are under way at once: they stay in the processor's cache
_HEADER = struct.Struct("<qq")  # channel, length
_NUMPY = {
    paddle.float32: np.float32,
    paddle.float64: np.float64,
    paddle.float16: np.float16,
    paddle.bfloat16: np.uint16,
    paddle.int64: np.int64,
    paddle.int32: np.int32,
    paddle.int16: np.int16,
    paddle.int8: np.int8,
    paddle.uint8: np.uint8,
    paddle.bool: np.bool_,
}
_REDUCE = {
    core.ReduceOp.SUM: np.add,
    core.ReduceOp.MAX: np.maximum,
    core.ReduceOp.MIN: np.minimum,
    core.ReduceOp.PRODUCT: np.multiply,
}


class Peers:
    """The connections of this process to all others of the run. What arrives is kept until it is asked for."""

    def __init__(self, store: core.TCPStore, rank: int, size: int):
        self.rank, self.size = rank, size
        self.bytes_sent: Counter[int] = Counter()  # by channel
        self.seconds_waited = 0.0  # for what others send
        self._inboxes: defaultdict[tuple[int, int], SimpleQueue] = defaultdict(SimpleQueue)
        self._lock = threading.Lock()
        self._ended: set[int] = set()
        self._connections = self._connect(store)
        for peer, connection in self._connections.items():
            threading.Thread(target=self._read, args=(peer, connection), daemon=True).start()

    def send(self, peer: int, channel: int, array: np.ndarray) -> None:
        """Returns when the other process's own thread has taken the bytes, whatever that process is doing."""
        data = memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
        self.bytes_sent[channel] += len(data)
        try:
            self._connections[peer].sendall(_HEADER.pack(channel, len(data)))
            self._connections[peer].sendall(data)
        except OSError:
            raise peer_lost(f"process {peer} has ended") from None

    def receive(self, peer: int, channel: int) -> memoryview:
        """The next message of the channel from that process."""
        patience = float(os.environ.get("ERNIE5_COMM_TIMEOUT", PATIENCE))
        start = time.perf_counter()
        try:
            data = self._inbox(peer, channel).get(timeout=patience)
        except Empty:
            raise peer_lost(f"process {peer} has sent nothing for {patience:.0f} s") from None
        finally:
            self.seconds_waited += time.perf_counter() - start
        if data is None:
            self._inbox(peer, channel).put(None)  # for whoever asks next
            raise peer_lost(f"process {peer} has ended")
        return data

    def _inbox(self, peer: int, channel: int) -> SimpleQueue:
        with self._lock:
            is_new = (peer, channel) not in self._inboxes
            inbox = self._inboxes[peer, channel]
            if is_new and peer in self._ended:
                inbox.put(None)
            return inbox

    def _read(self, peer: int, connection: socket.socket) -> None:
        try:
            while True:
                channel, length = _HEADER.unpack(_exactly(connection, _HEADER.size))
                self._inbox(peer, channel).put(_exactly(connection, length))
        except OSError:
            with self._lock:
                self._ended.add(peer)
                for (sender, _), inbox in self._inboxes.items():
                    if sender == peer:
                        inbox.put(None)

    def _connect(self, store: core.TCPStore) -> dict[int, socket.socket]:
        """To those of lower rank; those of higher rank come. A stranger who comes does not know the token."""
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rsplit(":", 1)[0]
        with socket.create_server((host, 0), backlog=self.size) as server:
            token = secrets.token_bytes(16)
            store.set(f"peer/{self.rank}", f"{host} {server.getsockname()[1]} {token.hex()}")
            found = {}
            for peer in range(self.rank):
                store.wait(f"peer/{peer}")
                address, port, key = bytes(store.get(f"peer/{peer}")).decode().split()
                found[peer] = socket.create_connection((address, int(port)))
                found[peer].sendall(bytes.fromhex(key) + struct.pack("<q", self.rank))
            server.settimeout(patience_to_join())
            while len(found) < self.size - 1:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = [peer for peer in range(self.rank + 1, self.size) if peer not in found]
                    raise peer_lost(f"processes {missing} did not connect") from None
                connection.settimeout(None)
                hello = _exactly(connection, len(token) + 8)
                if secrets.compare_digest(bytes(hello[: len(token)]), token):
                    found[struct.unpack("<q", hello[len(token) :])[0]] = connection
                else:
                    connection.close()
        for connection in found.values():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found


def _exactly(connection: socket.socket, length: int) -> memoryview:
    view, place = memoryview(np.empty(length, np.uint8)), 0  # not zeroed first
    while place < length:
        count = connection.recv_into(view[place:])
        if not count:
            raise ConnectionError
        place += count
    return view


class _Done:
    """What Paddle waits for, where there is nothing to wait for."""

    def wait(self, *_) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class _Receive(_Done):
    """A message that somebody will want; those of a sender are taken in the order in which they were asked for."""

    def __init__(self, group: "ProcessGroup", sender: int, fill: Callable[[memoryview], None]):
        self._group, self._sender, self._fill = group, sender, fill
        self._is_done = False
        group.asked[sender].append(self)

    def wait(self, *_) -> bool:
        while not self._is_done:
            first = self._group.asked[self._sender].popleft()
            first._fill(self._group.take(self._sender, _Channel.MESSAGES))
            first._is_done = True
        return True

    def is_completed(self) -> bool:
        return self._is_done


class _UnderWay(_Done):
    """A collective whose messages have been sent and are not received yet."""

    def __init__(self, group: "ProcessGroup", finish: Callable[[], None]):
        self._group, self._finish = group, finish

    def wait(self, *_) -> bool:
        if self._group.under_way is self:
            self._group.under_way = None
            self._finish()
        return True

    def is_completed(self) -> bool:
        return self._group.under_way is not self


class _Channel:
    """Collectives and messages between two go apart: each is in step for itself."""

    COLLECTIVES, MESSAGES, COUNT = 0, 1, 2


class ProcessGroup:
    """The methods of Paddle's process groups, for the processes `ranks` (of the run, in the group's order)."""

    def __init__(self, peers: Peers, group_id: int, ranks: Sequence[int]):
        self.peers, self.group_id, self.ranks = peers, group_id, list(ranks)
        self.asked: defaultdict[int, deque[_Receive]] = defaultdict(deque)
        self._batch: list[_Receive] | None = None  # of receives that wait until all sends of the batch are on their way
        self.under_way: _UnderWay | None = None
        self._rank = self.ranks.index(peers.rank)

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return len(self.ranks)

    def name(self) -> str:
        return "GLOO"

    @property
    def bytes_sent(self) -> int:
        """By this process, in this group, so far."""
        return sum(self.peers.bytes_sent[self._channel(kind)] for kind in range(_Channel.COUNT))

    def give(self, member: int, array: np.ndarray, kind: int = _Channel.COLLECTIVES) -> None:
        self.peers.send(self.ranks[member], self._channel(kind), array)

    def take(self, member: int, kind: int = _Channel.COLLECTIVES) -> memoryview:
        if kind == _Channel.COLLECTIVES and self.under_way is not None:
            self.under_way.wait()  # messages of a member come in order
        return self.peers.receive(self.ranks[member], self._channel(kind))

    def _channel(self, kind: int) -> int:
        return self.group_id * _Channel.COUNT + kind

    @property
    def _others(self) -> list[int]:
        """The other members, each rank beginning with the next one, so that not all send to the same."""
        return [(self._rank + step) % self.size() for step in range(1, self.size())]

    def _exchange(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """parts[i] goes to member i; what the members sent to this one, by member, flat."""
        return self._start_exchange(parts)()

    def _start_exchange(self, parts: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Sends; what it returns receives."""
        for member in self._others:
            self.give(member, np.ascontiguousarray(parts[member]))
        own = parts[self._rank]
        return lambda: [
            own.reshape(-1) if member == self._rank else np.frombuffer(self.take(member), own.dtype)
            for member in range(self.size())
        ]

    # Collectives, named and ordered as Paddle calls them. `sync_op` changes nothing: they are done when they return.

    def all_reduce(self, tensor: Tensor, op: core.ReduceOp = core.ReduceOp.SUM, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array:
            flat = array.reshape(-1)
            if flat.nbytes <= WHOLE:
                flat[:] = self._reduced(tensor, op, self._exchange([flat] * self.size()))
                return _Done()
            step = AT_ONCE // flat.itemsize
            for start in range(0, flat.size, step):
                pieces = np.array_split(flat[start : start + step], self.size())
                mine = self._reduced(tensor, op, self._exchange(pieces))
                for member, piece in enumerate(self._exchange([mine] * self.size())):
                    pieces[member][:] = piece
        return _Done()

    def reduce(self, tensor: Tensor, dst: int, op: core.ReduceOp = core.ReduceOp.SUM, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array:
            flat = array.reshape(-1)
            if self._rank != dst:
                self.give(dst, flat)
                return _Done()
            parts = [flat if i == dst else np.frombuffer(self.take(i), flat.dtype) for i in range(self.size())]
            flat[:] = self._reduced(tensor, op, parts)
        return _Done()

    def reduce_scatter_tensor(
        self, out: Tensor, tensor: Tensor, op: core.ReduceOp = core.ReduceOp.SUM, sync_op: bool = True
    ) -> _Done:
        with _Array(tensor) as array, _Array(out) as result:
            pieces = np.split(array.reshape(-1), self.size())
            result.reshape(-1)[:] = self._reduced(tensor, op, self._exchange(pieces))
        return _Done()

    def reduce_scatter(
        self, out: Tensor, tensors: list[Tensor], op: core.ReduceOp = core.ReduceOp.SUM, sync_op: bool = True
    ) -> _Done:
        return self.reduce_scatter_tensor(out, paddle.concat([one.flatten() for one in tensors]), op)

    def broadcast(self, tensor: Tensor, src: int, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array:
            if self._rank == src:
                for member in self._others:
                    self.give(member, array)
            else:
                array.reshape(-1)[:] = np.frombuffer(self.take(src), array.dtype)
        return _Done()

    def all_gather(self, tensors: list[Tensor] | Tensor, tensor: Tensor, sync_op: bool = True) -> _Done:
        """Into a list of tensors; or, as sequence parallelism calls it, of the first tensor into the second."""
        if not isinstance(tensors, list):
            return self.all_gather_into_tensor(tensor, tensors)
        with _Array(tensor) as array:
            for one, part in zip(tensors, self._exchange([array] * self.size()), strict=True):
                _write(one, part)
        return _Done()

    def all_gather_into_tensor(self, out: Tensor, tensor: Tensor, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array, _Array(out) as result:
            result.reshape(-1)[:] = np.concatenate(self._exchange([array] * self.size()))
        return _Done()

    def all_gather_partial(self, out: Tensor, tensor: Tensor, parts: int, part: int, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array, _Array(out) as result:
            own = np.split(array.reshape(-1), parts)[part]
            result.reshape(-1)[:] = np.concatenate(self._exchange([own] * self.size()))
        return _Done()

    def gather(
        self, tensor: Tensor, tensors: list[Tensor], dst: int, sync_op: bool = True, use_calc_stream: bool = False
    ) -> _Done:
        with _Array(tensor) as array:
            if self._rank != dst:
                self.give(dst, array)
                return _Done()
            for member, one in enumerate(tensors):
                _write(one, array if member == dst else np.frombuffer(self.take(member), array.dtype))
        return _Done()

    def scatter_tensor(self, out: Tensor, tensor: Tensor, src: int, sync_op: bool = True) -> _Done:
        parts = paddle.split(tensor, self.size()) if self._rank == src else []
        return self.scatter(out, parts, src)

    def scatter(self, out: Tensor, tensors: list[Tensor], src: int, sync_op: bool = True) -> _Done:
        if self._rank != src:
            _write(out, np.frombuffer(self.take(src), _NUMPY[out.dtype]))
            return _Done()
        for member in self._others:
            with _Array(tensors[member]) as array:
                self.give(member, array)
        with _Array(tensors[src]) as array:
            _write(out, array)
        return _Done()

    def all_to_all(self, outs: list[Tensor], tensors: list[Tensor], sync_op: bool = True) -> _Done:
        arrays = [_array(one) for one in tensors]
        for one, part in zip(outs, self._exchange(arrays), strict=True):
            _write(one, part)
        return _Done()

    def all_to_all_tensor(self, out: Tensor, tensor: Tensor, sync_op: bool = True) -> _Done:
        return self.all_to_all_single(out, tensor, [], [])

    def all_to_all_single(
        self, out: Tensor, tensor: Tensor, out_sizes: Sequence[int], in_sizes: Sequence[int], sync_op: bool = True
    ) -> _Done:
        """Sizes: rows to and from each member; empty: equal shares. What is sent says its length itself."""
        with _Array(tensor) as array:
            ends = np.cumsum(list(in_sizes) or [len(array) // self.size()] * self.size())
            receive = self._start_exchange(np.split(array, ends[:-1]))
        self.under_way = task = _UnderWay(self, lambda: _write(out, np.concatenate(receive())))
        if sync_op:
            task.wait()
        return task

    def barrier(self, *_: int) -> _Done:
        self._exchange([np.zeros(0, np.uint8)] * self.size())
        return _Done()

    # Messages between two.

    def send(self, tensor: Tensor, dst: int, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array:
            self.give(dst, array, _Channel.MESSAGES)
        return _Done()

    def recv(self, tensor: Tensor, src: int, sync_op: bool = True) -> _Done:
        return self._received(src, lambda data: _write(tensor, np.frombuffer(data, _NUMPY[tensor.dtype])), sync_op)

    def send_partial(self, tensor: Tensor, dst: int, parts: int, part: int, sync_op: bool = True) -> _Done:
        with _Array(tensor) as array:
            self.give(dst, np.split(array.reshape(-1), parts)[part], _Channel.MESSAGES)
        return _Done()

    def recv_partial(self, tensor: Tensor, src: int, parts: int, part: int, sync_op: bool = True) -> _Done:
        def fill(data: memoryview) -> None:
            with _Array(tensor) as array:
                np.split(array.reshape(-1), parts)[part][:] = np.frombuffer(data, array.dtype)

        return self._received(src, fill, sync_op)

    def _received(self, src: int, fill: Callable[[memoryview], None], sync_op: bool) -> _Receive:
        task = _Receive(self, src, fill)
        if self._batch is not None:
            self._batch.append(task)
        elif sync_op:
            task.wait()
        return task

    def _start_coalescing(self) -> None:
        """Of pipelines' batches of messages: in a ring of stages, a receive that waited would keep back its send."""
        self._batch = []

    def _end_coalescing(self, tasks: Sequence[_Done] = ()) -> None:
        batch, self._batch = self._batch or [], None
        for task in batch:
            task.wait()

    def __getattr__(self, name: str) -> Callable:
        """`x_on_calc_stream`: there is one stream of work on a CPU."""
        if not name.endswith("_on_calc_stream"):
            raise AttributeError(name)
        return getattr(self, name.removesuffix("_on_calc_stream"))

    def _reduced(self, tensor, op, parts: Sequence[np.ndarray]) -> np.ndarray:
        """In the order of the ranks; bfloat16 in float32."""
        narrow = tensor.dtype == paddle.bfloat16
        total = _widened(parts[0]) if narrow else parts[0].copy()
        for part in parts[1:]:
            _REDUCE[op](total, _widened(part) if narrow else part, out=total)
        return _narrowed(total) if narrow else total


class _Array:
    """A tensor's memory as an array, written back where Paddle keeps it elsewhere (a view that is not contiguous)."""

    def __init__(self, tensor):
        self._tensor = tensor
        self._dense = tensor if tensor.is_contiguous() else tensor.contiguous()

    def __enter__(self) -> np.ndarray:
        return _array(self._dense)

    def __exit__(self, *_) -> None:
        if self._dense is not self._tensor:
            paddle.assign(self._dense, self._tensor)


def _array(tensor) -> np.ndarray:
    """The memory itself, not a copy, which lives as long as the array does."""
    dtype, tensor = np.dtype(_NUMPY[tensor.dtype]), tensor.contiguous()
    count = math.prod(tensor.shape)
    if not count:
        return np.zeros(tensor.shape, dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(tensor.data_ptr())
    memory.owner = tensor
    return np.frombuffer(memory, dtype).reshape(tensor.shape)


def _write(tensor, values: np.ndarray) -> None:
    with _Array(tensor) as array:
        array.reshape(-1)[:] = values.reshape(-1)


def _widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrowed(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 as uint16, to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


_peers: Peers | None = None


def seconds_waited() -> float:
    """That this process has waited for others so far; 0 where Paddle's own groups do the talking, as on a GPU."""
    return _peers.seconds_waited if _peers is not None else 0.0


def install() -> None:
    """From here on Paddle builds its groups for the backend `gloo` of the processes of this run from this file."""
    original = collective._new_process_group_impl
    if getattr(original, "is_ours", False):
        return

    def build(backend, store, rank, world_size, group_name, pg_options, group_id=0, **options):
        global _peers
        if backend != "gloo":
            return original(backend, store, rank, world_size, group_name, pg_options, group_id=group_id, **options)
        if _peers is None:  # the group of all comes first
            _peers = Peers(store, rank, world_size)
        return ProcessGroup(_peers, group_id, _members(store, group_id, rank, world_size))

    if not hasattr(parallel.ParallelEnv, "_device_id"):  # of GPUs alone; pipelines ask for it
        parallel.ParallelEnv._device_id = 0
    build.is_ours = True
    collective._new_process_group_impl = parallel._new_process_group_impl = build


def _members(store: core.TCPStore, group_id: int, rank: int, size: int) -> list[int]:
    """The ranks in the run of a group's members; Paddle says only which of them this one is."""
    keys = [f"group/{group_id}/{member}" for member in range(size)]
    store.set(keys[rank], str(_peers.rank))
    for key in keys:
        store.wait(key)
    return [int(bytes(store.get(key)).decode()) for key in keys]
