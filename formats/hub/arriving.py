"""Shards that arrive while the first of them are already worked on, and that go again where the disk is small."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..storage.source import SourceFile
from .remote_file import RemoteFile
from .repository import Repository

# Bytes of tensors that are read by ranges, at most, before shards arrive; headers always are, until then.
BY_RANGE = 1 << 20
ON_DISK = 2  # shards that lie on the disk at once, at most, if the disk is to be spared


class ArrivingFile:
    """A shard, read by ranges until more than a little of tensors is asked for, and then waited for. Thread-safe."""

    def __init__(self, arrivals: Arrivals, name: str) -> None:
        self.path = arrivals.folder / name
        self.size = arrivals.repository.files[name].size
        self.done = 0  # bytes that were read of it
        self._arrivals = arrivals
        self._name = name
        self._remote = RemoteFile(arrivals.repository, name, self.path)
        self._lock = threading.Lock()

    def read(self, start: int, n: int, where: str | None = None) -> NDArray[np.uint8]:
        """Read ``n`` bytes at the offset ``start``, as uint8 [n].

        Raises:
            FormatError: the network fails for minutes. SourceError: the file is shorter, or was changed.
        """
        if where is not None:  # a tensor's bytes, and not a header's
            self._arrivals.by_range += n
        local = self._arrivals.local(self._name, wait=self._arrivals.by_range >= BY_RANGE or self._arrivals.started)
        if local is not None:
            self.done += n
            return local.read(start, n, where)
        with self._lock:
            return self._remote.read(start, n, where).copy()

    def __reduce__(self) -> tuple[object, ...]:
        raise SourceError("a file that is still arriving cannot go to another machine", path=self.path)


class Arrivals:
    """The shards of a checkpoint, downloaded one after the other in the background, in the order they are read.

    Use it in a ``with`` block: its end stops the download.

    Args:
        repository: at its commit.
        folder: the checkpoint's folder in the hub's cache, where its other files lie.
        names: of the shards, in the order of reading.
        spare: a folder for the shards, of which two lie there at once, at most; each is removed after it was read, and
            the folder at the end. None to keep all, in the hub's cache.
    """

    def __init__(self, repository: Repository, folder: Path, names: Sequence[str], spare: Path | None = None) -> None:
        self.repository = repository
        self.folder = folder
        self.by_range = 0  # bytes of tensors that were asked for
        self._order = list(names)
        self._spare = spare
        self._files = {name: ArrivingFile(self, name) for name in names}
        self._here: OrderedDict[str, SourceFile] = OrderedDict()  # the one that was read last at the end
        self._wanted: list[str] = []  # somebody waits for these
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._ended = False

    @property
    def names(self) -> Collection[str]:
        return self._files.keys()

    @property
    def started(self) -> bool:
        """Whether shards are arriving: from then on nothing is read by ranges any more."""
        return self._thread is not None

    def open(self, name: str) -> ArrivingFile:
        """Open a shard, the same one each time."""
        return self._files[name]

    def local(self, name: str, *, wait: bool) -> SourceFile | None:
        """A shard on this machine.

        Args:
            name: which.
            wait: until it is there; else None where it is not.

        Raises:
            FormatError: it cannot be downloaded.
        """
        with self._changed:
            if wait and self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            while wait and name not in self._here:
                if self._failed is not None:
                    raise self._failed
                if name not in self._wanted:
                    self._wanted.append(name)
                    self._changed.notify_all()
                self._changed.wait()
            if name not in self._here:
                return None
            self._here.move_to_end(name)
            self._changed.notify_all()
            return self._here[name]

    def _run(self) -> None:
        try:
            while (name := self._next()) is not None:
                path = self._fetch(name)
                with self._changed:
                    self._here[name] = SourceFile(path)
                    if name in self._wanted:
                        self._wanted.remove(name)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _next(self) -> str | None:
        """Wait until a shard should be fetched, and there is room for it; None at the end."""
        with self._changed:
            while not self._ended:
                missing = [name for name in (*self._wanted, *self._ahead()) if name not in self._here]
                if missing and self._make_room(demanded=missing[0] in self._wanted):
                    return missing[0]
                self._changed.wait()
        return None

    def _ahead(self) -> list[str]:
        """The shards after the one that was read last."""
        last = next(reversed(self._here), None)
        return self._order if last is None else self._order[self._order.index(last) + 1 :]

    def _make_room(self, *, demanded: bool) -> bool:
        """Remove what was read; what was not, only for a shard that somebody waits for."""
        if self._spare is None or len(self._here) < ON_DISK:
            return True
        read = [name for name in self._here if self._files[name].done >= self._files[name].size * 0.98]
        for name in [*read, *self._here] if demanded else read:
            if name != next(reversed(self._here)):
                del self._here[name]
                (self._spare / name).unlink()
                self._files[name].done = 0
                return True
        return False

    def _fetch(self, name: str) -> Path:
        if self._spare is None:
            return self.repository.download([name]) / name
        return self.repository.download_to(self._spare, name)

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._spare is not None and self._thread is not None:
            self._thread.join()
            self._here.clear()
            shutil.rmtree(self._spare, ignore_errors=True)
