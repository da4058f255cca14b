"""Last actions of work that is interrupted, such as saying what is kept and removing temporary files.

Python reacts to Ctrl-C only between two of its own steps, but a kernel, a matrix product or a compilation may take
minutes. A program may therefore end its process from another thread; the commands do (``tools/terminal/signals.py``).
Nothing is lost by that, since everything that counts is in journals on the disk, but no ``finally`` runs. What must
happen nevertheless is registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_actions: list[Callable[[], object]] = []


@contextmanager
def when_cut_off(action: Callable[[], object]) -> Iterator[None]:
    """Call ``action``, once, when the block is interrupted.

    Args:
        action: may be called in another thread, and must be short.

    Example:
        >>> try:
        ...     with when_cut_off(lambda: print("what is done is kept")):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     pass
        what is done is kept
    """
    _actions.append(action)
    try:
        yield
    except KeyboardInterrupt:
        _call(action)
        raise
    finally:
        with suppress(ValueError):  # it was called already
            _actions.remove(action)


def cut_off() -> None:
    """Call the actions of all open blocks, the innermost first, because the process is about to end."""
    while _actions:
        _call(_actions[-1])


def _call(action: Callable[[], object]) -> None:
    try:
        _actions.remove(action)
    except ValueError:
        return  # another thread was faster
    with suppress(Exception):
        action()
