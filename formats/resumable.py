"""Output that survives its process: it grows under a name that is the same in every run, beside a journal.

A run that is killed leaves both; the next run of the same work takes them up, and ends in the same bytes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FormatError, OutputError, SourceError, WeightError
from .journal import Finished, Journal, Rows
from .output import Output, check_target, exists, explain, sync_file, sync_folder

SYNC_SECONDS = 2.0  # between entries of the journal: what a crash may cost

Say = Callable[[str], object]


class Resumable:
    """An open output and its journal. Made by ``resumable_output``."""

    def __init__(self, output: Output, journal: Journal) -> None:
        self.output = output
        self.finished: Finished = journal.finished
        self._journal = journal
        self._pending: list[Rows] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._record, name="journal", daemon=True)
        self._thread.start()

    def done(self, item: int, first: int, end: int) -> None:
        """Rows ``first`` to ``end`` of an item have been written. Thread-safe; they reach the journal soon."""
        with self._lock:
            self._pending.append((item, first, end))

    def _record(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            rows, self._pending = self._pending, []
        if not rows or self._error is not None:
            return
        try:
            os.fdatasync(self.output.fileno()) if hasattr(os, "fdatasync") else os.fsync(self.output.fileno())
            self._journal.add(rows)
        except OSError as error:  # told once by the system: it must not get lost in this thread
            self._error = error

    def finish(self) -> None:
        """No more rows will come, and all is well: everything on the disk, or ``OutputError``."""
        self._halt()
        if self._error is not None:
            raise explain(self._error, self.output.path, None) from self._error
        sync_file(self.output.fileno(), self.output.path)
        self._journal.close()

    def keep(self) -> bool:
        """No more rows will come in this run: whether there is anything that a later one could take up."""
        self._halt()
        self._flush()
        self._journal.close()
        return bool(self.finished) or self._journal.written

    def _halt(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def resumable_output(
    path: str | Path,
    size: int,
    digest: str,
    *,
    force: bool = False,
    inputs: Iterable[str | Path] = (),
    restart: bool = False,
    say: Say | None = None,
) -> Iterator[Resumable]:
    """A file that appears at ``path`` whole when the block ends. What was done of it outlives an interruption, a crash
    or a full disk; only an error that lies in the input discards it.

    Args:
        path: the target; a link is followed, so that the file it points to is replaced.
        size: its size in bytes, reserved at once.
        digest: of everything its bytes depend on: work of another digest is not taken up but replaced.
        force: whether an existing file may be replaced. It stays readable (and whole) until the rename.
        inputs: files being read, which the target must not be.
        restart: discard what an earlier run left.
        say: told in one line when work is taken up or kept.

    Raises:
        OutputError: the target exists, is an input or no plain file, the folder cannot be written, the disk is full,
            another process is writing it.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    check_target(path, target, force, inputs)
    part, record = (_beside(target, ending) for ending in ("part", "journal"))
    with _opened_alone(part, path) as fd:
        if restart or os.fstat(fd).st_size != size:
            record.unlink(missing_ok=True)
        work = Resumable(Output(path, part, fd), Journal(record, digest))
        try:
            if work.finished:
                _say(say, f"{path}: going on where an earlier run stopped; --restart begins anew")
            else:
                record.unlink(missing_ok=True)  # first: another work's journal must not speak of our data
                sync_folder(target.parent)
                os.ftruncate(fd, 0)  # nor may its data show between our tensors
                work.output.reserve(size)
            yield work
            work.finish()
            if target.exists() and not force:
                raise exists(path)  # it came while we worked
            os.replace(part, target)
        except BaseException as error:
            if work.keep() and not _lies_in_the_input(error):
                _say(say, f"{path}: what is done is kept in {part.name}; the same command goes on with it")
                raise
            part.unlink(missing_ok=True)
            record.unlink(missing_ok=True)
            raise
        record.unlink(missing_ok=True)
    sync_folder(target.parent)


def _lies_in_the_input(error: BaseException) -> bool:
    """Whether the same work would fail again: nothing of it is worth keeping."""
    return isinstance(error, (FormatError, WeightError)) and not isinstance(error, SourceError)


def _say(say: Say | None, text: str) -> None:
    if say is not None:
        say(text)


def _beside(target: Path, ending: str) -> Path:
    stem = os.fsencode(target.name)[:200].decode("utf-8", "ignore")  # a file system's limit is 255 bytes
    return target.parent / f".{stem}.{ending}"


@contextmanager
def _opened_alone(part: Path, path: Path) -> Iterator[int]:
    """The growing file, opened and locked: of two runs with one target, the second is told."""
    while True:
        try:
            # 0o666 less the umask: the permissions an ordinary program gives its output.
            fd = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise explain(error, path, None) from error
        try:
            if not _lock(fd):
                raise OutputError(
                    "is being written by another run", path=path, hint="wait for it, or choose another name"
                )
            if _is_still(part, fd):  # not renamed or removed by a run that had the lock until now
                yield fd
                return
        finally:
            os.close(fd)


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _lock(fd: int) -> bool:
    """Whether the file is ours alone; yes where the file system has no locks. It ends with the descriptor."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
