"""A rate that holds: threads that do the same work over and over for a while, started together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

SECONDS = 0.5


def calls_per_second(make: Callable[[int], Callable[[], object]], threads: int, seconds: float = SECONDS) -> float:
    """Of all threads together. ``make(i)`` is called in thread i for the function that it then repeats."""
    done = [0] * threads
    start = [0.0]
    ready = threading.Barrier(threads, lambda: start.__setitem__(0, perf_counter()))

    def work(i: int) -> None:
        call = make(i)
        call()
        ready.wait()
        while not done[i] or perf_counter() - start[0] < seconds:
            call()
            done[i] += 1

    pool = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(done) / (perf_counter() - start[0])
