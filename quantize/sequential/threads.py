"""Threads that share a computation, whose result is the same with any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Threads:
    """Calls functions for parts of the work, some at a time, in threads that compute alone.

    Args:
        pool: the threads; None for the caller's.
    """

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def each(self, do: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call ``do`` for each item; an error is raised as the first of them."""

        def one(item: Item) -> None:
            with torch.inference_mode():
                do(item)

        for _ in map(one, items) if self._pool is None else self._pool.map(one, items):
            pass


@contextmanager
def computing(n: int) -> Iterator[Threads]:
    """So many threads; torch computes with one in each, so that its sums are the same with any number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if n == 1:
            yield Threads(None)
        else:
            with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield Threads(pool)
    finally:
        torch.set_num_threads(before)
