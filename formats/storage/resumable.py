"""Outputs that survive their process: they grow under a name that is the same in every run, beside a journal.

A run that is killed leaves both. The next run of the same work goes on with them, and ends in the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import FormatError, OutputError, SourceError, WeightError
from .interrupts import when_cut_off
from .output import Output, check_room, check_target, explain, explained, rename_all, sync_file, sync_folder
from .rows_journal import FinishedRows, Rows, RowsJournal

SYNC_SECONDS = 2.0  # between two lines of the journal: the work that a crash may cost

Say = Callable[[str], object]


class Resumable:
    """Open outputs, and the journal of what is done in them. Made by ``resumable_output`` and its like."""

    def __init__(self, path: Path, outputs: Sequence[Output], journal: RowsJournal, say: Say | None = None) -> None:
        self.path = path
        self.outputs = list(outputs)
        self.finished: FinishedRows = journal.finished
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
        """The output, where there is only one."""
        (output,) = self.outputs
        return output

    @property
    def recorded(self) -> bool:
        """Whether there is anything that a later run could go on with."""
        return bool(self.finished) or self._journal.written

    def done(self, item: int, first: int, end: int) -> None:
        """Record that rows ``first`` to ``end`` of an item (``end`` excluded) have been written. Thread-safe.

        They reach the journal within ``SYNC_SECONDS``, after the data has reached the disk.

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
        except OSError as error:  # the system reports it only once: it must not get lost in this thread
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
        """End the work, all of which is written: bring everything to the disk.

        Raises:
            OutputError: that failed.
        """
        self._halt()
        if self._error is not None:
            raise explain(self._error, self.path, None) from self._error
        for output in self.outputs:
            sync_file(output.fileno(), output.path)
        self._journal.close()

    def keep(self) -> bool:
        """End this run before the work is done; whether there is anything that a later run could go on with."""
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
    """Create a file that appears at ``path`` whole when the block ends, and that a later run can go on with.

    What was done outlives an interruption, a crash or a full disk; only an error that lies in the input discards it.

    Args:
        path: the target; a link is followed, so that the file it points to is replaced.
        size: its size in bytes, reserved at once.
        digest: of everything its bytes depend on; unfinished work of another digest is discarded.
        force: whether an existing file may be replaced. It stays readable (and whole) until the rename.
        inputs: files being read, which the target may not be.
        restart: discard what an earlier run left.
        say: called with one line of text when an earlier run's work is taken up, or this one's is kept.

    Raises:
        OutputError: the target exists, is an input or not a regular file; the folder cannot be written; the disk is
            full; another process is writing the same target.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "numbers.bin"
        ...     with resumable_output(path, 4, "numbers 1") as work:
        ...         for row in range(4):
        ...             if (0, row, row + 1) not in work.finished:
        ...                 work.output.write_at(row, bytes([row]))
        ...                 work.done(0, row, row + 1)
        ...     path.read_bytes()
        b'\\x00\\x01\\x02\\x03'
    """
    with resumable_outputs([(path, size)], digest, force=force, inputs=inputs, restart=restart, say=say) as work:
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
    """Create several files that appear together when the block ends, with one journal, beside the first.

    Arguments and errors are those of ``resumable_output``.

    Args:
        files: each file's path and size.
    """
    wanted = [(Path(path), Path(os.path.realpath(path)), size) for path, size in files]
    sources = list(inputs)
    for path, target, _ in wanted:
        check_target(path, target, force, sources)
    path, first, _ = wanted[0]
    record = name_beside(first, "journal")
    targets = [target for _, target, _ in wanted]
    with ExitStack() as stack:
        outputs = []
        for name, target, _ in wanted:
            part = name_beside(target, "part")
            outputs.append(Output(name, part, stack.enter_context(_opened_alone(part, name))))
        sizes = [size for _, _, size in wanted]
        if restart or [os.fstat(output.fileno()).st_size for output in outputs] != sizes:
            with explained(path, record):
                record.unlink(missing_ok=True)
        work = Resumable(path, outputs, RowsJournal(record, digest), say)
        with keep_or_remove(work, [*(output.temporary for output in outputs), record], say):
            if work.finished:
                say_resumed(path, say)
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
def keep_or_remove(work: Resumable, traces: Sequence[Path], say: Say | None, worth: bool = True) -> Iterator[None]:
    """When the block fails, keep what a later run can go on with and say so, or else remove every trace.

    Args:
        work: what the block does.
        traces: its files and folders; the message names the first.
        say: called with one line of text.
        worth: whether a later run could go on at all.
    """
    once = threading.Lock()

    def leave(keep: bool) -> None:
        if not once.acquire(blocking=False):
            return  # said already, by the thread that ends the process
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
    """Remove files and folders, as far as the system allows."""
    for path in traces:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def say_resumed(path: Path, say: Say | None) -> None:
    """Say that an earlier run's work is taken up."""
    _say(say, f"{path}: going on where an earlier run stopped; --restart begins anew")


def _lies_in_the_input(error: BaseException) -> bool:
    """Whether the same work would fail again, so that nothing of it is worth keeping."""
    return isinstance(error, (FormatError, WeightError)) and not isinstance(error, SourceError)


def _say(say: Say | None, text: str) -> None:
    if say is not None:
        say(text)


def name_beside(target: Path, ending: str) -> Path:
    """The name of a file or folder that belongs to an unfinished target; the same in every run."""
    stem = os.fsencode(target.name)[:200].decode("utf-8", "ignore")  # a file system's limit is 255 bytes
    return target.parent / f".{stem}.{ending}"


@contextmanager
def _opened_alone(part: Path, path: Path) -> Iterator[int]:
    """Open and lock the growing file; of two runs with one target, the second gets an ``OutputError``."""
    while True:
        try:
            # 0o666 less the umask: the permissions an ordinary program gives its output.
            fd = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise explain(error, path, None) from error
        try:
            if not try_lock(fd):
                raise busy_error(path)
            if is_same_file(part, fd):  # not renamed or removed by a run that had the lock until now
                yield fd
                return
        finally:
            os.close(fd)


def busy_error(path: Path) -> OutputError:
    """The error that another run is writing the same target."""
    return OutputError("is being written by another run", path=path, hint="wait for it, or choose another name")


def is_same_file(path: Path, fd: int) -> bool:
    """Whether ``path`` is still the file that ``fd`` is open for."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def try_lock(fd: int) -> bool:
    """Lock an open file until it is closed; False where another process has the lock. True where locks do not exist."""
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
