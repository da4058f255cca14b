"""Who does the pieces of long work: the contract between what divides it and what runs it, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Pool(Protocol):
    """Workers, each a process, wherever it runs. They see the same files under the same paths.

    Args:
        n_workers: at most so many work at a time.
        threads: that each of them may use.
    """

    n_workers: int
    threads: int

    def run(
        self,
        start: Callable[[], Callable[[Piece], Result]],
        pieces: Iterable[Piece],
        done: Callable[[Piece, Result], object],
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        """Do every piece, in any order; a piece may be done twice, when the worker that had it is lost.

        Args:
            start: goes to each worker once, and gives what does its pieces there.
            pieces: small; taken one by one, when somebody is free for it.
            done: told of each piece, here, one at a time. What the worker did must be durable by then.
            tick: called now and then.

        Raises:
            QuantmillError: of the first piece, in the order of ``pieces``, that had one; or no worker lives.
        """
