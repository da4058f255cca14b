"""Output that survives its process: it grows under a name that is the same in every run, beside a journal.

A run that is killed leaves both; the next run of the same work takes them up, and ends in the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FormatError, OutputError, SourceError, WeightError
from .interrupts import when_cut_off
from .journal import Finished, Journal, Rows
from .output import Output, check_room, check_target, explain, explained, rename_all, sync_file, sync_folder

SYNC_SECONDS = 2.0  # between entries of the journal: what a crash may cost

Say = Callable[[str], object]


class Resumable:
    """Open outputs and the journal of what is done in them. Made by ``resumable_output`` and its like."""

    def __init__(self, path: Path, outputs: Sequence[Output], journal: Journal, say: Say | None = None) -> None:
        self.path = path
        self.outputs = list(outputs)
        self.finished: Finished = journal.finished
        self._journal = journal
        self._say = say
        self._pending: list[Rows] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._told = False
        self._thread = threading.Thread(target=self._record, name="journal", daemon=True)
        self._thread.start()

    @property
    def output(self) -> Output:
        """The only one."""
        (output,) = self.outputs
        return output

    @property
    def recorded(self) -> bool:
        """Whether there is anything that a later run could take up."""
        return bool(self.finished) or self._journal.written

    def done(self, item: int, first: int, end: int) -> None:
        """Rows ``first`` to ``end`` of an item have been written. Thread-safe; they reach the journal soon.

        Raises:
            OutputError: what was written before could not be brought to the disk.
        """
        if self._error is not None:
            raise explain(self._error, self.path, None) from self._error
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
            for output in tuple(self.outputs):
                _sync_data(output.fileno())
        except OSError as error:  # told once by the system: it must not get lost in this thread
            self._error = error
            return
        try:
            self._journal.add(rows)
        except OSError as error:  # the outputs have their room; only a crash would now cost more
            with self._lock:
                self._pending = rows + self._pending
            self._tell(f"{self.path}: the journal cannot be written ({error.strerror}); the work goes on without it")

    def _tell(self, text: str) -> None:
        if not self._told and self._say is not None:
            self._told = True
            self._say(text)

    def finish(self) -> None:
        """No more rows will come, and all is well: everything on the disk, or ``OutputError``."""
        self._halt()
        if self._error is not None:
            raise explain(self._error, self.path, None) from self._error
        for output in self.outputs:
            sync_file(output.fileno(), output.path)
        self._journal.close()

    def keep(self) -> bool:
        """No more rows will come in this run: whether there is anything that a later one could take up."""
        self._halt()
        self._flush()
        self._journal.close()
        return self.recorded

    def _halt(self) -> None:
        self._stop.set()
        self._thread.join()


def _sync_data(fd: int) -> None:
    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)


@contextmanager
def resumable_output(path: str | Path, size: int, digest: str, **options: Any) -> Iterator[Resumable]:
    """A file that appears at ``path`` whole when the block ends. What was done of it outlives an interruption, a crash
    or a full disk; only an error that lies in the input discards it.

    Args:
        path: the target; a link is followed, so that the file it points to is replaced.
        size: its size in bytes, reserved at once.
        digest: of everything its bytes depend on: work of another digest is not taken up but replaced.
        options: see ``resumable_outputs``.

    Raises:
        OutputError: the target exists, is an input or no plain file, the folder cannot be written, the disk is full,
            another process is writing it.
    """
    with resumable_outputs([(path, size)], digest, **options) as work:
        yield work


@contextmanager
def resumable_outputs(
    files: Iterable[tuple[str | Path, int]],
    digest: str,
    *,
    force: bool = False,
    inputs: Iterable[str | Path] = (),
    restart: bool = False,
    say: Say | None = None,
) -> Iterator[Resumable]:
    """Several files that appear together when the block ends, with one journal, beside the first.

    Args:
        files: each one's path and size.
        force: whether existing files may be replaced. They stay readable (and whole) until the rename.
        inputs: files being read, which no target may be.
        restart: discard what an earlier run left.
        say: told in one line when work is taken up or kept.
    """
    wanted = [(Path(path), Path(os.path.realpath(path)), size) for path, size in files]
    sources = list(inputs)
    for path, target, _ in wanted:
        check_target(path, target, force, sources)
    path, first, _ = wanted[0]
    record = beside(first, "journal")
    targets = [target for _, target, _ in wanted]
    with ExitStack() as stack:
        outputs = []
        for name, target, _ in wanted:
            part = beside(target, "part")
            outputs.append(Output(name, part, stack.enter_context(_opened_alone(part, name))))
        sizes = [size for _, _, size in wanted]
        if restart or [os.fstat(output.fileno()).st_size for output in outputs] != sizes:
            with explained(path, record):
                record.unlink(missing_ok=True)
        work = Resumable(path, outputs, Journal(record, digest), say)
        with leaving(work, [*(output.temporary for output in outputs), record], say):
            if work.finished:
                going_on(path, say)
            else:
                with explained(path, record):
                    record.unlink(missing_ok=True)  # first: another work's journal must not speak of our data
                sync_folder(record.parent)
                for output in outputs:
                    os.ftruncate(output.fileno(), 0)  # nor may its data show between our tensors
                check_room(record.parent, sum(sizes), path)
                for output, size in zip(outputs, sizes, strict=True):
                    output.reserve(size)
            yield work
            work.finish()
            with explained(path, *targets, *(output.temporary for output in outputs)):
                rename_all(outputs, targets, force)
        record.unlink(missing_ok=True)
    for folder in {target.parent for _, target, _ in wanted}:
        sync_folder(folder)


@contextmanager
def leaving(work: Resumable, traces: Sequence[Path], say: Say | None, worth: bool = True) -> Iterator[None]:
    """When the block fails: keep what a later run can take up (if that is ``worth`` it) and say so, or remove every
    trace."""
    once = threading.Lock()

    def leave(keep: bool) -> None:
        if not once.acquire(blocking=False):
            return  # said already, by the thread that waits for no one
        if keep:
            _say(say, f"{work.path}: what is done is kept in {traces[0].name}; the same command goes on with it")
        else:
            remove(traces)

    with when_cut_off(lambda: leave(worth and work.recorded)):
        try:
            yield
        except BaseException as error:
            leave(work.keep() and worth and not _lies_in_the_input(error))
            raise


def remove(traces: Iterable[Path]) -> None:
    """Files and folders of ours, as far as the system lets us."""
    for path in traces:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def going_on(path: Path, say: Say | None) -> None:
    _say(say, f"{path}: going on where an earlier run stopped; --restart begins anew")


def _lies_in_the_input(error: BaseException) -> bool:
    """Whether the same work would fail again: nothing of it is worth keeping."""
    return isinstance(error, (FormatError, WeightError)) and not isinstance(error, SourceError)


def _say(say: Say | None, text: str) -> None:
    if say is not None:
        say(text)


def beside(target: Path, ending: str) -> Path:
    """The name of what belongs to an unfinished target: the same in every run."""
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
            if not lock(fd):
                raise busy(path)
            if is_still(part, fd):  # not renamed or removed by a run that had the lock until now
                yield fd
                return
        finally:
            os.close(fd)


def busy(path: Path) -> OutputError:
    return OutputError("is being written by another run", path=path, hint="wait for it, or choose another name")


def is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def lock(fd: int) -> bool:
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
