"""Carrying out plans: chunks of rows from all tensors in one queue, encoded on a few threads, each written in place.

Kernels, reads and writes release the GIL, and every chunk's place in the file is known, so threads share nothing but
the queue. Chunks are small, so memory does not grow with the model. Rows are encoded one by one, whatever chunk
they come in: the bytes depend on neither the threads nor the chunk size, nor on the machines (``cluster.py``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formats.storage.resumable import resumable_output
from ..formats.storage.uncached import past_cache
from ..formats.workers import Pool
from .chunks import Chunk, Job, Task, chunks_of, is_copy, tasks_of
from .encode import Encoder, Scratch
from .fingerprint import fingerprint
from .kernels import keep
from .plan import Importance, Plan

if TYPE_CHECKING:
    from .refine.refiner import Refiner

__all__ = ["Job", "cpu_count", "execute", "execute_all", "on_threads"]

_SPARE = 8  # threads, at most, that read and write while others compute: each holds a chunk
Progress = Callable[[int], object]


def execute(plan: Plan, path: str | Path, **options: Any) -> None:
    """Write one planned file. Options and errors are those of ``execute_all``."""
    execute_all([Job(plan, Path(path))], **options)


def execute_all(
    jobs: Sequence[Job],
    *,
    threads: int | None = None,
    importance: Importance | None = None,
    refiner: Refiner | None = None,
    progress: Progress | None = None,
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    chunk_weights: int | None = None,
    restart: bool = False,
    say: Callable[[str], object] | None = None,
    pool: Pool | None = None,
) -> None:
    """Write planned files; each appears when all are whole, or not at all. Every row of a source is read once, for all
    of them. What an interruption leaves unfinished is kept beside them, and the next run of the same plan goes on.

    Args:
        jobs: from ``make_plan``; plans of one model share its reading.
        threads: None for one a CPU this process may use.
        importance: the vectors the plans were made with.
        refiner: for steps that are to be refined.
        progress: called, by one thread at a time, with the bytes of the source just done.
        force: existing files may be replaced.
        inputs: files being read besides the model, which no output must be.
        chunk_weights: weights encoded at a time, at least a row; None for the usual number.
        restart: discard what an earlier run left.
        say: told in one line when work is taken up or kept.
        pool: workers that do it, instead of threads of this process.

    Raises:
        WeightError: a weight is NaN or Inf (the first of the queue, whatever the threads), or too large for its type.
        OutputError: see ``resumable_output``.
    """
    vectors = importance or {}
    tasks = tasks_of(jobs)
    with ExitStack() as stack:
        works = []
        for plan, path in ((job.plan, job.path) for job in jobs):
            work = resumable_output(
                path, plan.size, fingerprint(plan, vectors, refiner), force=force, inputs=[*plan.source.paths, *inputs],
                restart=restart, say=say,
            )  # fmt: skip
            works.append(stack.enter_context(work))
            for offset, piece in plan.layout.pieces:
                works[-1].output.write_at(offset, piece)
        orders = [job.plan.layout.byteorder for job in jobs]
        encoder = Encoder(tasks, works, orders, vectors, jobs[0].plan.source.path, refiner)
        chunks = chunks_of(tasks, chunk_weights)
        if pool is None:
            done = _Count(tasks, progress)
            on_threads(encoder.do, chunks, threads or cpu_count(), done)
        else:
            from .distribute import on_pool

            on_pool(encoder, works, chunks, pool, progress)
    keep({part.step.type for task in tasks for part in task.parts if not is_copy(part.step)})


def cpu_count() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Count:
    """Tells the progress of chunks in bytes of the source, one thread at a time."""

    def __init__(self, tasks: Sequence[Task], progress: Progress | None) -> None:
        self._tasks, self._progress = tasks, progress
        self._lock = threading.Lock()

    def __call__(self, chunk: Chunk) -> None:
        if self._progress is not None:
            with self._lock:
                self._progress((chunk.b - chunk.a) * self._tasks[chunk.task].tensor.row_bytes)


def on_threads(
    do: Callable[[Chunk, Scratch], None],
    chunks: Iterator[Chunk],
    threads: int,
    done: Callable[[Chunk], object],
) -> None:
    """The queue, its threads, and what ends them: the last chunk, an error, or Ctrl-C.

    Chunks are handed out in order and those begun are finished, so the error that is raised, the first in the queue,
    is the same with any number of threads. Where reads wait for the disk, there are more threads than may compute at a
    time: the others read what comes next, or write, and no processor waits.

    Args:
        threads: how many may compute at a time.
    """
    lock = threading.Lock()
    turn = threading.Semaphore(threads)
    if past_cache():
        threads += min(threads, _SPARE)
    errors: dict[int, BaseException] = {}
    stopped = threading.Event()

    def work(ended: threading.Event) -> None:
        try:
            take()
        finally:
            ended.set()

    def take() -> None:
        scratch = Scratch(turn)
        while not stopped.is_set():
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            try:
                do(chunk, scratch)
                done(chunk)
            except BaseException as error:
                errors[chunk.number] = error
                stopped.set()

    # Events, for Python 3.11 takes a thread whose join was interrupted for one that has ended.
    pool: list[threading.Event] = []
    try:
        for i in range(threads):
            ended = threading.Event()
            threading.Thread(target=work, args=(ended,), name=f"quantize-{i}").start()
            pool.append(ended)
        for ended in pool:
            while not ended.wait(0.1):
                pass  # in slices, so that Ctrl-C is heard on every platform
    finally:
        stopped.set()
        for ended in pool:
            ended.wait()
    if errors:
        raise errors[min(errors)]
