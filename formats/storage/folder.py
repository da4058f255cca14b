"""Folders that appear whole or not at all, and whose large files survive the process that wrote them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from .journal import Finished, Journal
from .output import Output, check_parent, check_room, explain, explained, sync_folder, temporary_name
from .resumable import Resumable, Say, beside, busy, going_on, is_still, leaving, lock


class GrowingFolder:
    """A folder under its temporary name. Made by ``resumable_folder``.

    Args:
        target: its final path, as the user named it.
        path: where it is now; small files are written there plainly.
    """

    def __init__(self, target: Path, path: Path, work: Resumable) -> None:
        self.target, self.path = target, path
        self._work = work

    @property
    def finished(self) -> Finished:
        """What an earlier run did of the files that ``create`` makes."""
        return self._work.finished

    def done(self, item: int, first: int, end: int) -> None:
        """See ``Resumable.done``. Items are counted through all files."""
        self._work.done(item, first, end)

    def check_room(self, size: int) -> None:
        """Raise ``OutputError`` when the disk has not ``size`` bytes for all files together."""
        if not self.finished:
            check_room(self.path, size, self.target)

    def create(self, name: str, size: int) -> Output:
        """A file of that many bytes, with what an earlier run wrote of it. It is closed with the folder.

        Raises:
            OutputError: the disk is full; an earlier run's file is not what it was.
        """
        path = self.path / name
        with explained(self.target, self.path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        output = Output(self.target, path, fd)
        self._work.outputs.append(output)
        if os.fstat(fd).st_size != size:
            if self.finished and os.fstat(fd).st_size:
                problem = f"{path.name} of an unfinished run was changed"
                raise OutputError(problem, path=self.target, hint="--restart begins anew")
            output.reserve(size)
            sync_folder(self.path)  # before the journal speaks of it
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
    """A folder that appears at ``path`` whole when the block ends; the block fills the temporary one it is given.

    Args:
        path: the target; it may exist if it is empty.
        digest: of everything its files depend on: work of another digest is not taken up but replaced. None: nothing
            is taken up or kept.
        force: whether a folder with files in it may be replaced. Even then it must hold ``marker``, so that a slip
            of the hand replaces a checkpoint at worst and never a home folder.
        inputs: files or folders being read, which must not lie in the target.
        restart: discard what an earlier run left.
        say: told in one line when work is taken up or kept.

    Raises:
        OutputError: the target exists, holds an input, or cannot be written.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    _check_folder(path, target, force, inputs, marker)
    part, record = beside(target, "part"), beside(target, "journal")
    with _alone(part, path):
        journal = Journal(record, digest or "")
        resumes = bool(journal.finished) and digest is not None and not restart
        if not resumes:
            with explained(path, part, record):
                record.unlink(missing_ok=True)
                _empty(part)
            journal = Journal(record, digest or "")
        work = Resumable(path, (), journal, say)
        folder = GrowingFolder(path, part, work)
        try:
            with leaving(work, [part, record], say, worth=digest is not None):
                if resumes:
                    going_on(path, say)
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
    """Give the folder its name; what was there goes once that is done."""
    retired: Path | None = None
    if target.is_dir() and any(target.iterdir()):
        retired = temporary_name(target)
        os.rename(target, retired)
    try:
        os.rename(part, target)  # over an empty folder, or nothing
    except BaseException:
        if retired is not None:
            os.rename(retired, target)
        raise
    if retired is not None:
        shutil.rmtree(retired)


@contextmanager
def _alone(part: Path, path: Path) -> Iterator[None]:
    """The folder, made if it is not there, and locked: of two runs with one target, the second is told."""
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
        if not (lock(fd) and is_still(part, fd)):
            raise busy(path)
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
