"""Folders that appear whole or not at all, and whose large files survive the process that wrote them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from .output import Output, check_parent, check_room, explain, explained, sync_folder, temporary_name
from .resumable import Resumable, Say, busy_error, is_same_file, keep_or_remove, name_beside, say_resumed, try_lock
from .rows_journal import FinishedRows, RowsJournal


class GrowingFolder:
    """A folder that is being filled under its temporary name. Made by ``resumable_folder``.

    Args:
        target: its final path, as the user named it.
        path: where it is until the block ends; small files are written there in the ordinary way.
        work: the journal of the large files.
    """

    def __init__(self, target: Path, path: Path, work: Resumable) -> None:
        self.target, self.path = target, path
        self._work = work

    @property
    def finished(self) -> FinishedRows:
        """The rows that an earlier run wrote of the files that ``create`` makes."""
        return self._work.finished

    def done(self, item: int, first: int, end: int) -> None:
        """Record written rows; see ``Resumable.done``. The items of all files are numbered together."""
        self._work.done(item, first, end)

    def check_room(self, size: int) -> None:
        """Raise ``OutputError`` when the disk has not ``size`` bytes for all files together."""
        if not self.finished:
            check_room(self.path, size, self.target)

    def create(self, name: str, size: int) -> Output:
        """Create a file of ``size`` bytes, with what an earlier run wrote of it. It is closed with the folder.

        Every file is created before rows of any are ``done``, so that a journal speaks of files that are all there.

        Raises:
            OutputError: the disk is full, or an earlier run's file was changed or removed.
        """
        path = self.path / name
        with explained(self.target, self.path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        output = Output(self.target, path, fd)
        self._work.outputs.append(output)
        if os.fstat(fd).st_size != size:
            if self.finished:
                problem = f"{path.name} of an unfinished run was changed or removed"
                raise OutputError(problem, path=self.target, hint="--restart begins anew")
            output.reserve(size)
            sync_folder(self.path)  # before the journal names it
        return output

    def close(self) -> None:
        while self._work.outputs:
            os.close(self._work.outputs.pop().fileno())


@contextmanager
def resumable_folder(
    path: str | Path,
    digest: str | None = None,
    *,
    force: bool = False,
    inputs: Iterable[str | Path] = (),
    marker: str = "config.json",
    restart: bool = False,
    say: Say | None = None,
) -> Iterator[GrowingFolder]:
    """Create a folder that appears at ``path`` whole when the block ends; the block fills a temporary one.

    Args:
        path: the target; it may exist if it is empty.
        digest: of everything its files depend on; unfinished work of another digest is discarded. None means that no
            work is taken up or kept.
        force: whether a folder with files in it may be replaced. Even then it must hold ``marker``, so that a typing
            mistake replaces a checkpoint at worst and never a home folder.
        inputs: files or folders being read, which must not lie in the target.
        marker: a file that every folder of this kind holds.
        restart: discard what an earlier run left.
        say: called with one line of text when an earlier run's work is taken up, or this one's is kept.

    Raises:
        OutputError: the target exists, holds an input, or cannot be written; the disk is full; another process is
            writing the same target.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     path = Path(parent) / "checkpoint"
        ...     with resumable_folder(path) as folder:
        ...         _ = (folder.path / "config.json").write_text("{}")
        ...         folder.create("model.safetensors", 8).write_at(0, bytes(8))
        ...     sorted(file.name for file in path.iterdir())
        ['config.json', 'model.safetensors']
    """
    path, target = Path(path), Path(os.path.realpath(path))
    _check_folder(path, target, force, inputs, marker)
    part, record = name_beside(target, "part"), name_beside(target, "journal")
    with _alone(part, path):
        journal = RowsJournal(record, digest or "")
        # A run killed after its last rename leaves a journal without a folder, which must not speak for a new one.
        resumes = bool(journal.finished) and digest is not None and not restart and any(part.iterdir())
        if not resumes:
            with explained(path, part, record):
                record.unlink(missing_ok=True)
                _empty(part)
            journal = RowsJournal(record, digest or "")
        work = Resumable(path, (), journal, say)
        folder = GrowingFolder(path, part, work)
        try:
            with keep_or_remove(work, [part, record], say, worth=digest is not None):
                if resumes:
                    say_resumed(path, say)
                with explained(path, part):
                    yield folder
                    work.finish()
                    _sync_tree(part)
                _check_folder(path, target, force, (), marker)
                with explained(path, part, target):
                    _swap(part, target)
        finally:
            folder.close()
        record.unlink(missing_ok=True)
    sync_folder(target.parent)


def _swap(part: Path, target: Path) -> None:
    """Give the folder its final name, then remove what was there."""
    retired: Path | None = None
    if target.is_dir() and any(target.iterdir()):
        retired = temporary_name(target)
        os.rename(target, retired)
    try:
        os.rename(part, target)  # it may replace an empty folder
    except BaseException:
        if retired is not None:
            os.rename(retired, target)
        raise
    if retired is not None:
        shutil.rmtree(retired)


@contextmanager
def _alone(part: Path, path: Path) -> Iterator[None]:
    """Make the folder if it does not exist, and lock it; of two runs with one target, the second gets an error."""
    with explained(path, part):
        part.mkdir(exist_ok=True)
    if os.name == "nt":
        yield
        return
    try:
        fd = os.open(part, os.O_RDONLY)
    except OSError as error:
        raise explain(error, path, None) from error
    try:
        if not (try_lock(fd) and is_same_file(part, fd)):
            raise busy_error(path)
        yield
    finally:
        os.close(fd)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(parent))


def _check_folder(path: Path, target: Path, force: bool, inputs: Iterable[str | Path], marker: str) -> None:
    check_parent(path, target)
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError("is a file; a folder is to be written here", path=path)
    for source in inputs:
        real = Path(os.path.realpath(source))
        if real == target or target in real.parents:
            raise OutputError(f"holds the input {source}", path=path, hint="choose another folder")
    if not any(target.iterdir()):
        return
    if not force:
        raise OutputError("exists and is not empty", path=path, hint="--force replaces it")
    if not (target / marker).exists():
        raise OutputError(
            f"is not empty and holds no {marker}, so --force will not delete it",
            path=path,
            hint="choose another folder",
        )
