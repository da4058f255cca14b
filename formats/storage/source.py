"""Files that are read while others may change them.

Nothing is mapped: a page of a map whose file was cut short kills the process (SIGBUS), and a mapped page counts as
resident memory until it is given back. Rows are read at their place from a descriptor that stays open, so a file that
is renamed, replaced or made unreadable meanwhile is still the one that was opened; one that is changed is an error.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, SourceError, remedy
from ..ir import Bytes
from .uncached import Uncached

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}  # suffixes of a checkpoint's large files
_HINT = "bring the file back as it was and run the same command again"


class SourceFile:
    """An open file, closed with the last thing that refers to it. Thread-safe.

    Raises:
        FormatError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", path=path, hint=remedy(error)) from None
        weakref.finalize(self, file.close)
        self._fd = file.fileno()
        self._about = self._state()
        self._uncached = Uncached(self._fd, self.size)

    @property
    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._about[0]

    def read(self, start: int, n: int, where: str | None = None) -> Bytes:
        """``n`` bytes at an offset, as uint8 [n].

        Args:
            where: the place inside, for messages.

        Raises:
            SourceError: the file is not what it was when it was opened, or the disk failed.
        """
        try:
            data = self._uncached.read(start, n)
            if data is None:
                data = self._read(start, n, where)
            about = self._state()
        except OSError as error:
            raise self._error(f"cannot be read any more: {error.strerror}", where) from error
        if about != self._about:
            shorter = about[0] < self._about[0]
            raise self._error(f"the file {'became shorter' if shorter else 'was changed'} while it was read", where)
        return data

    def _read(self, start: int, n: int, where: str | None) -> Bytes:
        data = np.empty(n, np.uint8)
        done = 0
        while done < n:  # the system reads 2 GB at most in one go
            got = os.preadv(self._fd, [data.data[done:]], start + done)
            if not got:
                raise self._error("the file became shorter while it was read", where)
            done += got
        return data

    def __reduce__(self) -> tuple[Callable[..., SourceFile], tuple[Any, ...]]:
        """In another process, perhaps on another machine, the file is opened anew; it must be the same."""
        return _opened_elsewhere, (self.path, os.path.abspath(self.path), self._about)

    def _state(self) -> tuple[int, int]:
        about = os.fstat(self._fd)
        return about.st_size, about.st_mtime_ns

    def _error(self, problem: str, where: str | None) -> SourceError:
        return SourceError(problem, path=self.path, where=where, hint=_HINT)


def file_stamps(paths: Iterable[Path]) -> str:
    """Which files a model is read from, by name, size and time of change: reading them whole would take as long as the
    work. Of a checkpoint's folder those that hold weights; the rest is in the metadata."""
    lines = []
    for path in paths:
        files = [path] if path.is_file() else []
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS and file.is_file())
        lines += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n" for file in files]
    return "".join(lines)


def _opened_elsewhere(path: Path, absolute: str, about: tuple[int, int]) -> SourceFile:
    """A file that another process opened.

    Raises:
        FormatError: it is not here. SourceError: it is another one here.
    """
    import socket

    try:
        file = SourceFile(Path(absolute))
    except FormatError as error:
        where = f"on {socket.gethostname()}"
        raise FormatError(error.problem, path=path, where=where, hint="every machine must see the same files") from None
    file.path = path
    if file._about != about:
        problem = f"the file is another one on {socket.gethostname()}"
        raise SourceError(problem, path=path, hint="every machine must see the same files")
    return file
