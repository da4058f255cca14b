"""Process the queue of chunks on many machines: each writes its own ranges of the files, on storage that all share.

The process that calls this owns the journal, the progress, the errors and the rename. A worker gets the plan once and
then pieces, runs of chunks that take it seconds. It syncs what it wrote before it answers, because the journal may name
only what is on the disk, and no machine can sync the page cache of another.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter

from ..formats.errors import OutputError
from ..formats.storage.output import Output, explain, sync_file
from ..formats.storage.resumable import Resumable
from ..formats.storage.rows_journal import FinishedRows
from ..formats.workers import Pool
from .chunks import Chunk, Task, is_copy
from .encode import ChunkEncoder, Scratch
from .kernels import kernel_for
from .threads import on_threads

SECONDS = 2.0  # of work in a piece: long compared with a message, short compared with the whole
_MOST_CHUNKS = 2000  # in a piece, so that its message stays short
# Seconds for each weight until the first answers arrive; if they are too high, only the first pieces are smaller.
_SEARCHED, _PLAIN = 1e-6, 2e-8

Piece = tuple[Chunk, ...]
Kind = tuple[str, ...]


def on_pool(
    encoder: ChunkEncoder,
    works: Sequence[Resumable],
    chunks: Iterator[Chunk],
    pool: Pool,
    done: Callable[[Chunk], object],
) -> None:
    """Process every chunk with the pool's workers.

    Args:
        encoder: encodes a chunk; its files are ``works``.
        works: the growing files.
        chunks: in the order of the queue.
        pool: the workers.
        done: called here with each chunk that is on the disk.

    Raises:
        QuantmillError: the first of the queue, as on one machine; or a worker does not see our files.
    """
    for work in works:  # what this machine still holds of them must not be written over what others write
        sync_file(work.output.fileno(), work.output.path)
    start = partial(_PieceWorker, replace(encoder, files=()), [_RemoteFile.of(work) for work in works], pool.threads)
    pieces = _Pieces(encoder.tasks, chunks, pool)

    def record(piece: Piece, seconds: Sequence[float]) -> None:
        pieces.learn(piece, seconds)
        for chunk in piece:
            for step in encoder.tasks[chunk.task].steps:
                works[step.job].done(step.item, chunk.a, chunk.b)
            done(chunk)

    pool.run(start, pieces, record)


class _Pieces:
    """Divides the queue into pieces of as many chunks as take about ``SECONDS``, and less towards the end, so that all
    workers end together. What a weight costs is measured on the way, for each kind of task."""

    def __init__(self, tasks: Sequence[Task], chunks: Iterator[Chunk], pool: Pool) -> None:
        self._tasks, self._chunks, self._pool = tasks, chunks, pool
        self._kinds = [_kind(task) for task in tasks]
        self._left: Counter[Kind] = Counter()
        self._guess: dict[Kind, float] = {}
        for task, kind in zip(tasks, self._kinds, strict=True):
            self._left[kind] += task.tensor.n_weights
            self._guess.setdefault(kind, _guess(task))
        self._weights: Counter[Kind] = Counter()
        self._seconds: dict[Kind, float] = dict.fromkeys(self._guess, 0.0)

    def __iter__(self) -> Iterator[Piece]:
        while (first := next(self._chunks, None)) is not None:
            yield self._fill(first)

    def _fill(self, first: Chunk) -> Piece:
        costs = {kind: self._cost(kind) for kind in self._guess}
        left = sum(costs[kind] * weights for kind, weights in self._left.items())
        limit = min(SECONDS * self._pool.threads, left / (2 * self._pool.n_workers))
        piece, total = [], 0.0
        for chunk in chain([first], self._chunks):
            kind, weights = self._kinds[chunk.task], self._weights_of(chunk)
            self._left[kind] -= weights
            piece.append(chunk)
            total += costs[kind] * weights
            if total >= limit or len(piece) == _MOST_CHUNKS:
                break
        return tuple(piece)

    def learn(self, piece: Piece, seconds: Sequence[float]) -> None:
        """Take note of the seconds that each chunk of a piece took."""
        for chunk, spent in zip(piece, seconds, strict=True):
            kind = self._kinds[chunk.task]
            self._weights[kind] += self._weights_of(chunk)
            self._seconds[kind] += spent

    def _cost(self, kind: Kind) -> float:
        """Return the seconds for each weight of a kind, measured or guessed."""
        known = self._weights[kind]
        return self._seconds[kind] / known if known else self._guess[kind]

    def _weights_of(self, chunk: Chunk) -> int:
        return (chunk.b - chunk.a) * self._tasks[chunk.task].tensor.width


def _kind(task: Task) -> Kind:
    """Return what the cost of a weight depends on: the types of the tensor and of all steps."""
    return (task.tensor.qtype.name, *(item.step.type.name for item in task.steps))


def _guess(task: Task) -> float:
    """Guess the seconds for each weight of a task."""
    steps = [item.step for item in task.steps]
    return sum(_PLAIN if is_copy(s) or not kernel_for(s.type).uses_importance else _SEARCHED for s in steps)


@dataclass(frozen=True)
class _RemoteFile:
    """How a worker finds an unfinished file: its path, and what distinguishes it from another file of that path."""

    path: Path
    part: Path
    inode: int
    size: int
    finished: FinishedRows

    @classmethod
    def of(cls, work: Resumable) -> _RemoteFile:
        about = os.fstat(work.output.fileno())
        part = Path(os.path.abspath(work.output.temporary))
        return cls(work.output.path, part, about.st_ino, about.st_size, work.finished)

    def open(self) -> _SharedFile:
        problem = f"worker on {socket.gethostname()} does not see {self.part}"
        hint = "--cluster wants the output on storage that all machines share, under one path"
        try:
            # For writing alone: a network file system that holds a page it has read writes all of that page back, and
            # with it the neighbour's bytes as they were.
            fd = os.open(self.part, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            raise OutputError(problem, path=self.path, hint=hint) from None
        except OSError as error:
            raise explain(error, self.path, None) from error
        about = os.fstat(fd)
        if (about.st_ino, about.st_size) != (self.inode, self.size):
            os.close(fd)
            raise OutputError(problem, path=self.path, hint=hint)
        return _SharedFile(Output(self.path, self.part, fd), self.finished)


@dataclass
class _SharedFile:
    """An unfinished file of another process, written to here; it is open for as long as this process lives."""

    output: Output
    finished: FinishedRows
    written: bool = False

    def done(self, item: int, first: int, end: int) -> None:
        self.written = True

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if self.written:
            self.written = False
            try:
                getattr(os, "fdatasync", os.fsync)(self.output.fileno())
            except OSError as error:
                raise explain(error, self.output.path, None) from error


class _PieceWorker:
    """Does pieces in a worker process.

    Args:
        encoder: the encoder, without its files.
        files: how to find the files.
        threads: how many threads to use.
    """

    def __init__(self, encoder: ChunkEncoder, files: Sequence[_RemoteFile], threads: int) -> None:
        self._files = [file.open() for file in files]
        self._encoder = replace(encoder, files=self._files)
        self._threads = threads

    def __call__(self, piece: Piece) -> list[float]:
        """Do a piece and return the seconds of computing that each of its chunks took."""
        seconds = {}
        begun = perf_counter()

        def do(chunk: Chunk, scratch: Scratch) -> None:
            start = perf_counter()
            self._encoder.do(chunk, scratch)
            seconds[chunk.number] = perf_counter() - start

        on_threads(do, iter(piece), self._threads, lambda chunk: None)
        computed = (perf_counter() - begun) * self._threads
        for file in self._files:
            file.sync()
        # Threads may be more than compute: what their chunks waited for a turn is not counted.
        share = min(1.0, computed / sum(seconds.values()))
        return [seconds[chunk.number] * share for chunk in piece]
