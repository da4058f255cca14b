"""A rate that holds: threads that do the same work over and over for a while, started together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

SECONDS = 0.5


def calls_per_second(make: Callable[[int], Callable[[], object]], threads: int, seconds: float = SECONDS) -> float:
    """Of all threads together, each by its own clock: one that ends a call early does not wait for the others, as it
    would not in a queue. ``make(i)`` is called in thread i for the function that it then repeats."""
    rates = [0.0] * threads
    start = [0.0]
    ready = threading.Barrier(threads, lambda: start.__setitem__(0, perf_counter()))

    def work(i: int) -> None:
        call = make(i)
        call()
        ready.wait()
        done, spent = 0, 0.0
        while not done or spent < seconds:
            call()
            done, spent = done + 1, perf_counter() - start[0]
        rates[i] = done / spent

    pool = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(rates)
