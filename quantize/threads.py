"""Run the chunks of a plan on the threads of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

from ..formats.storage.uncached import past_cache
from .chunks import Chunk
from .encode import Scratch

_MOST_SPARE = 8  # threads that read and write while others compute: each holds a chunk


def cpu_count() -> int:
    """The number of CPUs that this process may use.

    Example:
        >>> from quantmill.quantize.threads import cpu_count
        >>> cpu_count() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_threads(
    do: Callable[[Chunk, Scratch], None],
    chunks: Iterator[Chunk],
    threads: int,
    done: Callable[[Chunk], object],
) -> None:
    """Process every chunk, and return when all threads have ended: after the last chunk, an error, or Ctrl-C.

    Chunks are handed out in order and those begun are finished, so the error that is raised, the first in the queue,
    is the same with any number of threads. Where reads wait for the disk, more threads run than may compute at a time:
    the others read what comes next, or write, so that no processor waits.

    Args:
        do: processes a chunk, with its thread's buffers; it holds ``Scratch.turn`` while it computes.
        chunks: in the order of the queue.
        threads: how many may compute at a time.
        done: called with each chunk that has been processed, from its thread.

    Raises:
        BaseException: what ``do`` or ``done`` raised for the first chunk of the queue for which one did.
    """
    lock = threading.Lock()
    turn = threading.Semaphore(threads)
    if past_cache():
        threads += min(threads, _MOST_SPARE)
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

    # Events, because Python 3.11 takes a thread whose join was interrupted for one that has ended.
    running: list[threading.Event] = []
    try:
        for i in range(threads):
            ended = threading.Event()
            threading.Thread(target=work, args=(ended,), name=f"quantize-{i}").start()
            running.append(ended)
        for ended in running:
            while not ended.wait(0.1):
                pass  # wait in slices, so that Ctrl-C is noticed on every platform
    finally:
        stopped.set()
        for ended in running:
            ended.wait()
    if errors:
        raise errors[min(errors)]
