"""``--cluster``: a pool of workers on Ray, on this machine or on many."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

import click

from ...formats.errors import PlanError, QuantmillError

LOCAL = "local"
_AHEAD = 2  # pieces a worker has at a time, so that it need not wait for us between them
_TRIES = 3  # of a piece, each on another worker
_TICK = 0.2  # seconds
_KNOCK_SECONDS = 10.0
_STOP_SECONDS = 5.0  # at most, until workers that were told to stop have stopped
_THREADS = 8  # of a worker on other machines, at most
_STORE = 512 << 20  # bytes of Ray's shared memory on one machine: plans and importance go through it

Work = Callable[[Any], Any]


@dataclass(frozen=True)
class ClusterOptions:
    """Where work is carried out, if not on this machine alone.

    Args:
        address: of a Ray cluster's head, or ``local`` to start one on this machine.
        workers: of the cluster, use at most so many; None for all.
    """

    address: str
    workers: int | None = None


class _Hands:
    """The actor: one process of the pool.

    Args:
        version: what the driver runs; another version here might write other bytes.
        start: in a list, a reference to what gives the work; see ``Pool.run``.
        threads: to use.
    """

    def __init__(self, version: str, start: list[Any], threads: int) -> None:
        self._version, self._start, self._threads = version, start, threads
        self._work: Work | None = None

    def ready(self) -> None:
        """Answers when the process is up."""

    def do(self, piece: Any) -> tuple[Any, Exception | None]:
        """(result, None), or (None, what went wrong)."""
        try:
            if self._work is None:
                self._work = self._begin()
            return self._work(piece), None
        except Exception as error:
            return None, error

    def _begin(self) -> Work:
        import ray

        if (here := version()) != self._version:
            problem = f"the worker on {socket.gethostname()} has quantmill {here}, we are {self._version}"
            raise QuantmillError(problem, hint="install the same on every machine")
        data, *buffers = ray.get(self._start[0])
        start: Callable[[], Work] = pickle.loads(data, buffers=buffers)
        return start()


def _packed(start: Any) -> list[Any]:
    """A pickle that workers undo themselves, so that they see what goes wrong with it; arrays apart from it, which a
    machine's workers then share."""
    import numpy as np
    from ray import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    dumps: Callable[..., bytes] = cloudpickle.dumps
    data = dumps(start, protocol=5, buffer_callback=buffers.append)
    return [data, *(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers)]


def version() -> str:
    """Of the program, and of the sources that the bytes depend on."""
    from ... import __version__
    from ...quantize.kernels.cachedir import sources_digest

    return f"{__version__} ({sources_digest()})"


@dataclass(eq=False)
class _Queue:
    """Pieces in order; those that come back are first."""

    pieces: Iterator[Any]
    returned: deque[_Item] = field(default_factory=deque)
    count: int = 0
    ends: bool = False  # after an error only what comes back is done, for one of it may have an earlier error

    def next(self) -> _Item | None:
        if self.returned:
            return self.returned.popleft()
        if self.ends:
            return None
        for piece in self.pieces:
            self.count += 1
            return _Item(self.count, piece)
        return None

    def back(self, item: _Item) -> None:
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
    """See ``Pool``. Made by ``connected``."""

    n_workers: int
    threads: int
    say: Callable[[str], object] = lambda text: None

    def run(
        self,
        start: Callable[[], Work],
        pieces: Iterable[Any],
        done: Callable[[Any, Any], object],
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        _Run(self, start, _Queue(iter(pieces)), done, tick).run()


class _Run:
    """One ``RayPool.run``: its actors live as long."""

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
        self._make: Any = ray.remote(_Hands)
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
        self._queue.back(first)
        try:
            for _ in range(self._pool.n_workers):
                self._hire()
            while self._goes_on():
                ready, _ = self._ray.wait(list(self._running), timeout=_TICK)
                for answer in ready:
                    self._take(answer)
                self._tick()
        finally:
            self._dismiss()
        if self._error is not None:
            raise self._error[1]

    def _goes_on(self) -> bool:
        """Whether a piece is to come that matters."""
        items = [item for _, item in self._running.values() if item is not None] + list(self._queue.returned)
        if self._error is not None:
            return any(item.number < self._error[0] for item in items)
        if items:
            return True
        item = self._queue.next()
        if item is not None:
            self._queue.back(item)
        return item is not None

    def _hire(self) -> None:
        actor = self._make.remote(version(), [self._start], self._pool.threads)
        self._actors.append(actor)
        self._running[actor.ready.remote()] = (actor, None)

    def _feed(self, actor: Any) -> None:
        """As many pieces as the worker may have."""
        has = sum(other is actor and item is not None for other, item in self._running.values())
        for _ in range(_AHEAD - has):
            item = self._queue.next()
            if item is None:
                return
            self._running[actor.do.remote(item.piece)] = (actor, item)

    def _take(self, answer: Any) -> None:
        if answer not in self._running:  # its worker was lost meanwhile
            return
        actor, item = self._running.pop(answer)
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            if item is not None:
                self._again(item, error)
            self._lose(actor, error)
            return
        if item is not None:
            self._settle(item, *found)
        self._feed(actor)

    def _settle(self, item: _Item, result: Any, error: Exception | None) -> None:
        if error is None:
            self._lost = 0
            self._done(item.piece, result)
        elif isinstance(error, OSError):  # a disk or a network may be well again, or elsewhere
            self._again(item, error)
        else:
            self._fail(item, error)

    def _again(self, item: _Item, error: Exception) -> None:
        item.tries += 1
        if item.tries >= _TRIES:
            self._fail(item, _one_line(error, f"a piece of the work failed {_TRIES} times"))
        elif self._error is None or item.number < self._error[0]:
            self._queue.back(item)

    def _fail(self, item: _Item, error: Exception) -> None:
        if self._error is None or item.number < self._error[0]:
            self._error = (item.number, error)
            self._queue.end_before(item.number)

    def _lose(self, actor: Any, error: Exception) -> None:
        """A worker is gone: its pieces go back, another takes its place."""
        for answer in [answer for answer, (other, _) in self._running.items() if other is actor]:
            _, item = self._running.pop(answer)
            if item is not None:
                self._queue.back(item)
        self._actors.remove(actor)
        self._pool.say("a worker is lost; its work goes to another")
        self._lost += 1
        if self._lost > _TRIES * self._pool.n_workers and self._error is None:
            self._error = (0, _one_line(error, "the workers die"))
        self._hire()
        for other in self._actors[:-1]:
            if not any(who is other and item is None for who, item in self._running.values()):
                self._feed(other)

    def _dismiss(self) -> None:
        """Stop the workers, and wait until they have: they must not write into what is another's next."""
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


def pool_of(options: Any, one_per_machine: bool = False) -> AbstractContextManager[RayPool | None]:
    """The pool that ``--cluster`` and ``--workers`` ask for, or None.

    Args:
        one_per_machine: unless ``--workers`` says more; for work that uses every CPU anyway.

    Raises:
        PlanError: see ``connected``; also options that do not go together.
    """
    if options.get("cluster") is None:
        if options.get("workers") is not None:
            raise PlanError("is for --cluster", where="--workers", hint="--threads is for this machine")
        return nullcontext()
    if options.get("threads") is not None:
        raise PlanError("is for one machine", where="--threads", hint="--workers says how many of the cluster work")
    say = (lambda text: None) if options.get("quiet") else partial(click.echo, err=True)
    return connected(options["cluster"], options.get("workers"), one_per_machine, say)


@contextmanager
def connected(
    address: str,
    workers: int | None = None,
    one_per_machine: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[RayPool]:
    """Workers of a cluster; a Ray that was started for it ends with the block.

    Args:
        address: of a cluster's head, ``auto`` for the one this machine is in; or ``local`` to start one here, which has
            a worker for each CPU.
        workers: at most so many.
        one_per_machine: see ``pool_of``.
        say: told in a line when a worker is lost.

    Raises:
        PlanError: Ray is not installed. QuantmillError: no cluster answers there.
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
            ray.shutdown()


def start_ray(address: str, n_cpus: int | None = None) -> None:
    """Connect to a cluster, or begin one here.

    Args:
        address: see ``connected``.
        n_cpus: of one that begins here; None for those this process may use.
    """
    import ray

    from ...quantize.threads import cpu_count

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: behind everything else that runs here
        common |= {"num_cpus": n_cpus or cpu_count(), "include_dashboard": False, "object_store_memory": _STORE}
    else:
        _knock(address)
    if hasattr(ray._private.worker, "print_worker_logs"):  # else Ray tells of lost workers on our stdout
        ray._private.worker.print_worker_logs = lambda *what: None
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **common)  # "local" is never another's cluster, whatever the environment says
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _one_line(error, f"no Ray cluster at {address}") from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray takes it for itself


def _knock(address: str) -> None:
    """Whether anybody listens: Ray itself would try for minutes.

    Raises:
        QuantmillError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return  # "auto", and whatever else Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _one_line(error, f"no Ray cluster at {address}") from error


def _size(ray: Any, address: str, workers: int | None, one_per_machine: bool) -> RayPool:
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = [n for n in cpus if n]
    if not cpus:
        raise QuantmillError("the cluster has no CPU", where=address)
    if one_per_machine:
        return RayPool(min(workers or len(cpus), sum(cpus)), 1)
    threads = 1 if address == LOCAL else min(_THREADS, *cpus)
    most = sum(n // threads for n in cpus)
    return RayPool(min(workers or most, most), threads)
