"""A pool of workers on Ray, on this machine or on many: what ``--cluster`` asks for."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from ...formats.errors import PlanError, QuantmillError

LOCAL = "local"
_PIECES_AHEAD = 2  # that a worker has at a time, so that it need not wait for the next
_MOST_TRIES = 3  # of a piece, each on another worker
_TICK_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 5.0  # at most, until workers that were told to stop have stopped
_MOST_THREADS = 8  # of a worker on other machines
_STORE_BYTES = 512 << 20  # of Ray's shared memory on one machine: plans and importance go through it

Work = Callable[[Any], Any]


@dataclass(frozen=True)
class ClusterOptions:
    """The Ray cluster that carries out the work.

    Args:
        address: the address of the cluster's head; ``auto`` for the cluster that this machine is in; ``local`` to start
            one on this machine.
        workers: how many workers to use at most; None for all.

    Example:
        >>> from quantmill.tools.api.ray_pool import ClusterOptions
        >>> ClusterOptions("local", workers=2)
        ClusterOptions(address='local', workers=2)
    """

    address: str
    workers: int | None = None


class _Worker:
    """The Ray actor: one process of the pool.

    Args:
        version: the version of the process that uses the pool; another version here might write other bytes.
        start: a list with a reference to the packed ``start`` of ``Pool.run``.
        threads: how many threads to use.
    """

    def __init__(self, version: str, start: list[Any], threads: int) -> None:
        self._version, self._start, self._threads = version, start, threads
        self._work: Work | None = None

    def ready(self) -> None:
        """Return when the process runs."""

    def do(self, piece: Any) -> tuple[Any, Exception | None]:
        """Do a piece and return (result, None), or (None, the error)."""
        try:
            if self._work is None:
                self._work = self._load_work()
            return self._work(piece), None
        except Exception as error:
            return None, error

    def _load_work(self) -> Work:
        import ray

        if (here := version()) != self._version:
            problem = f"the worker on {socket.gethostname()} has quantmill {here}, we are {self._version}"
            raise QuantmillError(problem, hint="install the same on every machine")
        data, *buffers = ray.get(self._start[0])
        start: Callable[[], Work] = pickle.loads(data, buffers=buffers)
        return start()


def _packed(start: Any) -> list[Any]:
    """Pickle what workers unpickle themselves, so that its errors are theirs; arrays are apart from the pickle, so that
    the workers of a machine share them."""
    import numpy as np
    from ray import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    dumps: Callable[..., bytes] = cloudpickle.dumps
    data = dumps(start, protocol=5, buffer_callback=buffers.append)
    return [data, *(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers)]


def version() -> str:
    """Return the version of the program, with a digest of the sources that the bytes depend on."""
    from ...formats.version import __version__
    from ...quantize.kernels.cachedir import sources_digest

    return f"{__version__} ({sources_digest()})"


@dataclass(eq=False)
class _Queue:
    """Pieces in order, first those that were put back."""

    pieces: Iterator[Any]
    returned: deque[_Item] = field(default_factory=deque)
    count: int = 0
    ends: bool = False  # after an error only pieces that were put back are done: one may have an earlier error

    def next(self) -> _Item | None:
        if self.returned:
            return self.returned.popleft()
        if self.ends:
            return None
        for piece in self.pieces:
            self.count += 1
            return _Item(self.count, piece)
        return None

    def put_back(self, item: _Item) -> None:
        self.returned.append(item)
        self.returned = deque(sorted(self.returned, key=lambda item: item.number))

    def end_before(self, number: int) -> None:
        self.ends = True
        self.returned = deque(item for item in self.returned if item.number < number)


@dataclass(eq=False)
class _Item:
    number: int
    piece: Any
    tries: int = 0


@dataclass
class RayPool:
    """A ``Pool`` of Ray actors. Made by ``connected``.

    Args:
        n_workers: how many workers there are at most.
        threads: how many threads each of them uses.
        say: called with a line when a worker is lost; None for nobody.
    """

    n_workers: int
    threads: int
    say: Callable[[str], object] | None = None

    def run(
        self,
        start: Callable[[], Work],
        pieces: Iterable[Any],
        done: Callable[[Any, Any], object],
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        with redirect_stdout(sys.stderr):  # Ray itself reports lost workers on stdout, where output of commands goes
            _Run(self, start, _Queue(iter(pieces)), done, tick).run()


class _Run:
    """One call of ``RayPool.run``, whose actors live as long as it."""

    def __init__(
        self,
        pool: RayPool,
        start: Callable[[], Work],
        queue: _Queue,
        done: Callable[[Any, Any], object],
        tick: Callable[[], object],
    ) -> None:
        import ray

        self._ray, self._pool, self._queue, self._done, self._tick = ray, pool, queue, done, tick
        options = {"num_cpus": pool.threads, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._make: Any = ray.remote(_Worker)
        self._make = self._make.options(**options)
        self._start = ray.put(_packed(start))
        self._actors: list[Any] = []
        self._running: dict[Any, tuple[Any, _Item | None]] = {}  # answer to come -> actor, piece (None: its start)
        self._lost = 0  # workers in a row, with no piece done between
        self._error: tuple[int, Exception] | None = None

    def run(self) -> None:
        first = self._queue.next()
        if first is None:
            return
        self._queue.put_back(first)
        try:
            for _ in range(self._pool.n_workers):
                self._start_worker()
            while self._is_unfinished():
                ready, _ = self._ray.wait(list(self._running), timeout=_TICK_SECONDS)
                for answer in ready:
                    self._receive(answer)
                self._tick()
        finally:
            self._stop_workers()
        if self._error is not None:
            raise self._error[1]

    def _is_unfinished(self) -> bool:
        """Return whether there are pieces whose results matter."""
        items = [item for _, item in self._running.values() if item is not None] + list(self._queue.returned)
        if self._error is not None:
            return any(item.number < self._error[0] for item in items)
        if items:
            return True
        item = self._queue.next()
        if item is not None:
            self._queue.put_back(item)
        return item is not None

    def _start_worker(self) -> None:
        actor = self._make.remote(version(), [self._start], self._pool.threads)
        self._actors.append(actor)
        self._running[actor.ready.remote()] = (actor, None)

    def _assign_pieces(self, actor: Any) -> None:
        """Give a worker as many pieces as it may have."""
        has = sum(other is actor and item is not None for other, item in self._running.values())
        for _ in range(_PIECES_AHEAD - has):
            item = self._queue.next()
            if item is None:
                return
            self._running[actor.do.remote(item.piece)] = (actor, item)

    def _receive(self, answer: Any) -> None:
        if answer not in self._running:  # its worker was lost meanwhile
            return
        actor, item = self._running.pop(answer)
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            if item is not None:
                self._retry(item, error)
            self._replace_worker(actor, error)
            return
        if item is not None:
            self._record(item, *found)
        self._assign_pieces(actor)

    def _record(self, item: _Item, result: Any, error: Exception | None) -> None:
        if error is None:
            self._lost = 0
            self._done(item.piece, result)
        elif isinstance(error, OSError):  # a disk or a network may be well again, or elsewhere
            self._retry(item, error)
        else:
            self._fail(item, error)

    def _retry(self, item: _Item, error: Exception) -> None:
        item.tries += 1
        if item.tries >= _MOST_TRIES:
            self._fail(item, _one_line(error, f"a piece of the work failed {_MOST_TRIES} times"))
        elif self._error is None or item.number < self._error[0]:
            self._queue.put_back(item)

    def _fail(self, item: _Item, error: Exception) -> None:
        if self._error is None or item.number < self._error[0]:
            self._error = (item.number, error)
            self._queue.end_before(item.number)

    def _replace_worker(self, actor: Any, error: Exception) -> None:
        """Put the pieces of a lost worker back and start another in its place."""
        for answer in [answer for answer, (other, _) in self._running.items() if other is actor]:
            _, item = self._running.pop(answer)
            if item is not None:
                self._queue.put_back(item)
        self._actors.remove(actor)
        if self._pool.say is not None:
            self._pool.say("a worker is lost; its work goes to another")
        self._lost += 1
        if self._lost > _MOST_TRIES * self._pool.n_workers and self._error is None:
            self._error = (0, _one_line(error, "workers are lost again and again"))
        self._start_worker()
        for other in self._actors[:-1]:
            if not any(who is other and item is None for who, item in self._running.values()):
                self._assign_pieces(other)

    def _stop_workers(self) -> None:
        """Stop the workers and wait until they have stopped, since files that they write may be others' next."""
        for actor in self._actors:
            self._ray.kill(actor)
        deadline = monotonic() + _STOP_SECONDS
        for answer, (_, item) in self._running.items():
            if item is not None:
                try:
                    self._ray.get(answer, timeout=max(0.0, deadline - monotonic()))
                except self._ray.exceptions.RayError:
                    continue


def _one_line(error: Exception, what: str) -> QuantmillError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return QuantmillError(f"{what}: {lines[0] if lines else type(error).__name__}", where="--cluster")


@contextmanager
def connected(
    address: str,
    workers: int | None = None,
    one_per_machine: bool = False,
    say: Callable[[str], object] | None = None,
) -> Iterator[RayPool]:
    """Connect to a cluster and give a pool of its workers; a Ray that was started for it ends with the block.

    Args:
        address: see ``ClusterOptions``; a ``local`` cluster has a worker for each CPU.
        workers: how many workers to use at most; None for all.
        one_per_machine: use one worker on each machine unless ``workers`` is more, for work that uses every CPU anyway.
        say: called with a line when a worker is lost; None for nobody.

    Raises:
        PlanError: Ray is not installed.
        QuantmillError: no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise PlanError("needs Ray", where="--cluster", hint="pip install quantmill[cluster]") from None
    ours = not ray.is_initialized()
    try:
        if ours:
            start_ray(address)
        yield replace(_size(ray, address, workers, one_per_machine), say=say)
    finally:
        if ours:
            with redirect_stdout(sys.stderr):
                ray.shutdown()


def start_ray(address: str, n_cpus: int | None = None) -> None:
    """Connect to a cluster, or start one on this machine.

    Args:
        address: see ``ClusterOptions``.
        n_cpus: how many CPUs a cluster on this machine has; None for those that this process may use.

    Raises:
        QuantmillError: no cluster answers there.
    """
    import ray

    from ...quantize.threads import cpu_count

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15, behind everything else that runs here
        common |= {"num_cpus": n_cpus or cpu_count(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    else:
        _check_address(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **common)  # "local" never joins another cluster, whatever the environment says
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _one_line(error, f"no Ray cluster at {address}") from error
    signal.signal(signal.SIGTERM, on_terminate)  # because Ray installs its own handler


def _check_address(address: str) -> None:
    """Check that something listens at an address; Ray itself would try for minutes.

    Raises:
        QuantmillError: nothing does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return  # such as "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _one_line(error, f"no Ray cluster at {address}") from error


def _size(ray: Any, address: str, workers: int | None, one_per_machine: bool) -> RayPool:
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = [n for n in cpus if n]
    if not cpus:
        raise QuantmillError("the cluster has no CPU", where=address)
    if one_per_machine:
        return RayPool(min(workers or len(cpus), sum(cpus)), 1)
    threads = 1 if address == LOCAL else min(_MOST_THREADS, *cpus)
    most = sum(n // threads for n in cpus)
    return RayPool(min(workers or most, most), threads)
