"""What is said and tidied when work is cut off: by an interrupt that is heard in time, or by one that cannot wait.

Python hears Ctrl-C between two steps of its own. A kernel, a matrix product or a compilation may be minutes long, so
the commands end the process when an interrupt has not been heard soon (``tools/main.py``). Nothing is lost by that:
what counts is on the disk, in journals. What is left to do is registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_acts: list[Callable[[], object]] = []


@contextmanager
def when_cut_off(act: Callable[[], object]) -> Iterator[None]:
    """``act`` is called, once, when the block is interrupted. It may run in another thread, and must be short."""
    _acts.append(act)
    try:
        yield
    except KeyboardInterrupt:
        _call(act)
        raise
    finally:
        with suppress(ValueError):  # it was called
            _acts.remove(act)


def cut_off() -> None:
    """The process is about to end: call what the open blocks registered, the innermost first."""
    while _acts:
        _call(_acts[-1])


def _call(act: Callable[[], object]) -> None:
    try:
        _acts.remove(act)
    except ValueError:
        return  # another thread was faster
    with suppress(Exception):
        act()
