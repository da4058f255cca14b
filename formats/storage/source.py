"""Source files, which other programs may change while they are read.

They are not memory-mapped: reading a page of a map whose file was cut short kills the process (SIGBUS), and mapped
pages count as resident memory. Bytes are read at their offset from a descriptor that stays open, so a file that is
renamed, replaced or made unreadable meanwhile is still the one that was opened. A file that is changed is an error.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, SourceError, remedy
from .endings import ending
from .uncached import Uncached

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}  # suffixes of a checkpoint's large files
# A folder of huggingface_hub's cache, which holds what its commit holds, or as much of it as has arrived.
_SNAPSHOT = re.compile(r"[/\\]snapshots[/\\][0-9a-f]{40}\Z")
_HINT = "bring the file back as it was and run the same command again"


class ByteSource(Protocol):
    """Something that bytes are read from at any offset: a file on disk, or one that lies elsewhere."""

    path: Path

    @property
    def size(self) -> int: ...

    def read(self, start: int, n: int, where: str | None = None) -> NDArray[np.uint8]: ...


class Elsewhere(Protocol):
    """Files of a folder that do not lie on this machine, and are read by their names."""

    @property
    def names(self) -> Collection[str]: ...

    def open(self, name: str) -> ByteSource: ...


class SourceFile:
    """An open file that is read at any offset, and closed with the last object that refers to it. Thread-safe.

    It can be pickled: the other process opens the file anew, and checks that it is the same.

    Args:
        path: the file.

    Raises:
        FormatError: it cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.bin"
        ...     _ = path.write_bytes(bytes(range(100)))
        ...     file = SourceFile(path)
        ...     file.size, file.read(10, 3)
        (100, array([10, 11, 12], dtype=uint8))
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
        """Its size in bytes when it was opened."""
        return self._about[0]

    def read(self, start: int, n: int, where: str | None = None) -> NDArray[np.uint8]:
        """Read ``n`` bytes at the offset ``start``, as uint8 [n].

        Args:
            start, n: in bytes.
            where: what is read, such as a tensor's name, for messages.

        Raises:
            SourceError: the file was changed since it was opened, or the disk failed.
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

    def _read(self, start: int, n: int, where: str | None) -> NDArray[np.uint8]:
        data = np.empty(n, np.uint8)
        done = 0
        while done < n:  # the system reads 2 GB at most in one go
            got = os.preadv(self._fd, [data.data[done:]], start + done)
            if not got:
                raise self._error("the file became shorter while it was read", where)
            done += got
        return data

    def __reduce__(self) -> tuple[Callable[..., SourceFile], tuple[Any, ...]]:
        """Open the file anew in another process, perhaps on another machine; it must be the same there."""
        return _opened_elsewhere, (self.path, os.path.abspath(self.path), self._about)

    def _state(self) -> tuple[int, int]:
        about = os.fstat(self._fd)
        return about.st_size, about.st_mtime_ns

    def _error(self, problem: str, where: str | None) -> SourceError:
        return SourceError(problem, path=self.path, where=where, hint=_HINT)


def file_stamps(paths: Iterable[Path]) -> str:
    """Describe files by name, size and time of change, one line each, to recognize them without reading them.

    Args:
        paths: files, or checkpoints' folders, of which only the files with weights count: what is in the others is part
            of the metadata. A snapshot in the hub's cache is described by its name, which is that of its commit.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.gguf"
        ...     _ = path.write_bytes(bytes(64))
        ...     os.utime(path, ns=(0, 1000))
        ...     file_stamps([path])
        'model.gguf 64 1000\\n'
    """
    lines = []
    for path in paths:
        files = [path] if path.is_file() else []
        if path.is_dir() and _SNAPSHOT.search(str(path)):
            lines.append(f"{path.name}\n")
        elif path.is_dir():
            files = sorted(file for file in path.iterdir() if ending(file) in WEIGHTS and file.is_file())
        lines += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n" for file in files]
    return "".join(lines)


def _opened_elsewhere(path: Path, absolute: str, about: tuple[int, int]) -> SourceFile:
    """Open a file that another process has open.

    Raises:
        FormatError: it cannot be opened here. SourceError: it is another file here.
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
