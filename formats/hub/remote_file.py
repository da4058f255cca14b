"""A file on the hub that is read by ranges: enough for headers, which is all that a plan needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from .address import HubAddress
from .faults import patiently
from .repository import Repository

AHEAD = 64 << 10  # bytes fetched at once, at least: most headers of safetensors files take one request or two


class RemoteFile:
    """A file of a repository, read as ``SourceFile`` reads one on disk. Not thread-safe.

    Args:
        repository: at its commit.
        name: of one of its files.
        path: what messages call it.

    Raises:
        FormatError: the network fails for minutes.
    """

    def __init__(self, repository: Repository, name: str, path: Path) -> None:
        from huggingface_hub import HfFileSystem

        self.path = path
        self.size = repository.files[name].size
        self.transferred = 0
        self._address = HubAddress(repository.address.repo, repository.address.revision, name)
        self._at = f"{repository.address.repo}@{repository.commit}/{name}"
        self._system = HfFileSystem(skip_instance_cache=True)
        self._start, self._kept = 0, b""

    def read(self, start: int, n: int, where: str | None = None) -> NDArray[np.uint8]:
        """Read ``n`` bytes at the offset ``start``, as uint8 [n].

        Raises:
            FormatError: the network fails for minutes. SourceError: the file is shorter.
        """
        stop = start + n
        if stop > self.size:
            raise SourceError("the file is shorter than the hub says", path=self.path, where=where)
        if start < self._start or stop > self._start + len(self._kept):
            last = min(max(stop, start + AHEAD), self.size)
            self._kept = patiently(lambda: self._range(start, last), self._address)
            self._start = start
            self.transferred += len(self._kept)
        at = start - self._start
        return np.frombuffer(self._kept, np.uint8, n, at)

    def _range(self, start: int, stop: int) -> bytes:
        with self._system.open(self._at, "rb", cache_type="none") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise SourceError("the hub sent fewer bytes than asked for", path=self.path)
        return bytes(data)


Opener = Callable[[Path], RemoteFile]
