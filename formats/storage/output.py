"""Output that is whole or not there: written under a temporary name, made durable, then renamed.

Room is reserved before any work, so a full disk is one clear error in the first second instead of the last.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .uncached import Uncached

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SEND_AFTER = 64 << 20  # bytes written before the disk is told to begin with them
_HINTS = {
    errno.EACCES: "the folder's permissions do not allow it: change them, or choose another folder",
    errno.EPERM: "the folder's permissions do not allow it: change them, or choose another folder",
    errno.EROFS: "choose a folder that can be written, or mount it so",
    errno.EIO: "the disk failed: write elsewhere",
    errno.EFBIG: "raise the limit (ulimit -f), or write to another file system",
}
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class Output:
    """An open file that grows under a temporary name. Made by ``atomic_output``."""

    def __init__(self, target: Path, temporary: Path, fd: int) -> None:
        self.path = target
        self.temporary = temporary
        self._fd = fd
        self._uncached = Uncached(fd, os.fstat(fd).st_size)
        self._end = 0
        self._unsent = 0

    def fileno(self) -> int:
        return self._fd

    def write_at(self, offset: int, data: Any) -> None:
        """Write a buffer (bytes, or a C-contiguous array) at a file offset, whole. Thread-safe."""
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        while view:
            try:
                done = self._uncached.write(view, offset)
                if done is None:
                    done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise explain(error, self.path, len(view)) from error
            view, offset = view[done:], offset + done
            self._unsent += done  # a race between threads loses a count, nothing more
        if self._unsent >= _SEND_AFTER:
            self._unsent = 0
            _start_writing(self._fd)

    def write(self, data: Any) -> None:
        """Append after the last ``write``, for formats whose size is not known beforehand. One thread."""
        self.write_at(self._end, data)
        self._end += memoryview(data).nbytes

    def reserve(self, size: int) -> None:
        """Make the file ``size`` bytes long, zeros, with room on the disk for all of them."""
        check_room(self.temporary.parent, size, self.path)
        self._uncached.resize(size)
        if not size:
            return
        try:
            os.posix_fallocate(self._fd, 0, size)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT_RESERVE:
                raise explain(error, self.path, size) from error
            os.ftruncate(self._fd, size)  # a file system (or platform) without reservation


@contextmanager
def atomic_output(
    path: str | Path, size: int | None = None, force: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[Output]:
    """A file that appears at ``path`` whole when the block ends, or not at all when it raises.

    Args:
        path: the target; a link is followed, so that the file it points to is replaced.
        size: its final size in bytes, reserved at once; None when it is not known.
        force: whether an existing file may be replaced. It stays readable (and whole) until the rename.
        inputs: files being read, which the target must not be.

    Raises:
        OutputError: the target exists, is an input or no plain file, the folder cannot be written, the disk is full.
    """
    with atomic_outputs([(path, size)], force, inputs) as (output,):
        yield output


@contextmanager
def atomic_outputs(
    files: Iterable[tuple[str | Path, int | None]], force: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[tuple[Output, ...]]:
    """Several files that appear together when the block ends, or not at all: as ``atomic_output``, for a set.

    The first is renamed last: should the machine die between two renames, the set lacks the file that readers begin
    with. An error undoes the renames that were done.

    Args:
        files: each file's path and size, as ``atomic_output`` has them.
    """
    wanted = [(Path(path), size) for path, size in files]
    sources = list(inputs)
    targets = [Path(os.path.realpath(path)) for path, _ in wanted]
    for (path, _), target in zip(wanted, targets, strict=True):
        check_target(path, target, force, sources)
    outputs: list[Output] = []
    try:
        try:
            for (path, size), target in zip(wanted, targets, strict=True):
                outputs.append(_create(path, target, size))
            if len(outputs) > 1:
                check_room(targets[0].parent, sum(size or 0 for _, size in wanted), outputs[0].path)
            for output, (_, size) in zip(outputs, wanted, strict=True):
                if size is not None:
                    output.reserve(size)
            yield tuple(outputs)
            for output in outputs:
                sync_file(output.fileno(), output.path)
        finally:
            for output in outputs:
                os.close(output.fileno())
        rename_all(outputs, targets, force)
    except BaseException:
        for output in outputs:
            with suppress(FileNotFoundError):
                os.unlink(output.temporary)
        raise
    for folder in {target.parent for target in targets}:
        sync_folder(folder)


def _create(path: Path, target: Path, size: int | None) -> Output:
    temporary = temporary_name(target)
    try:
        # 0o666 less the umask: the permissions an ordinary program gives its output.
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise explain(error, path, size) from error
    return Output(path, temporary, fd)


def rename_all(outputs: list[Output], targets: list[Path], force: bool) -> None:
    """Give every file its name, the first last. A set keeps what it replaces until all are done."""
    keeps = len(outputs) > 1
    done: list[tuple[Path, Path | None]] = []
    try:
        for output, target in reversed(list(zip(outputs, targets, strict=True))):
            if target.exists() and not force:
                raise exists(output.path)  # it came while we worked
            old = _link(target) if keeps and target.exists() else None
            done.append((target, old))
            os.replace(output.temporary, target)
    except BaseException:
        for (target, old), output in zip(done, reversed(outputs), strict=False):
            if old is not None:
                os.replace(old, target)
                with suppress(FileNotFoundError):
                    os.unlink(old)  # to rename one name of a file to another of it does nothing, says POSIX
            elif keeps and not output.temporary.exists():
                os.replace(target, output.temporary)
        raise
    for _, old in done:
        if old is not None:
            os.unlink(old)


def _link(target: Path) -> Path:
    """A second name for a file that is about to be replaced."""
    name = temporary_name(target)
    try:
        os.link(target, name)
    except OSError:  # a file system without links
        shutil.copyfile(target, name)
    return name


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; systems that cannot sync a folder need not."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def human_bytes(n: int) -> str:
    """``1.5 GB``: decimal units, as disks and published model sizes have them."""
    size = float(n)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{n} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_target(path: Path, target: Path, force: bool, inputs: Iterable[str | Path]) -> None:
    for source in inputs:
        if _same_file(target, Path(source)):
            raise OutputError("the output is the input", path=path, hint="choose another name")
    check_parent(path, target)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(error, path, None) from error
    if stat.S_ISDIR(mode):
        raise OutputError("is a folder; a file is to be written here", path=path)
    if not stat.S_ISREG(mode):
        raise OutputError("is no plain file; it cannot be replaced", path=path)
    if not force:
        raise exists(path)


def check_parent(path: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise OutputError(f"there is no folder {target.parent}", path=path, hint="make it first")


def _same_file(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def temporary_name(target: Path) -> Path:
    # The stem is cut so that a name at the file system's limit of 255 bytes still has a temporary one.
    stem = os.fsencode(target.name)[:200].decode("utf-8", "ignore")
    return target.parent / f".{stem}.{os.urandom(4).hex()}.tmp"


def _start_writing(fd: int) -> None:
    """Let the disk begin with what the page cache holds, without waiting, so that the sync at the end is short.

    Linux's ``sync_file_range`` with SYNC_FILE_RANGE_WRITE; elsewhere the sync does all the work.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, 0, 0, 2)  # an error shows in the sync


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    function: Callable[[int, int, int, int], int] | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]  # type: ignore[attr-defined]
    return function


_sync_file_range = _find_sync_file_range()


def sync_file(fd: int, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:  # delayed allocation and network disks report a full disk only here
        raise explain(error, path, None) from error


def check_room(folder: Path, size: int, path: Path) -> None:
    """Raise ``OutputError`` when the disk has not ``size`` bytes to give in a folder, for what becomes ``path``."""
    free = _free_bytes(folder)
    if free is not None and free < size:
        raise _no_room(path, size, free)


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` where no file can be made beside ``path``: better now than after hours of work."""
    target = Path(os.path.realpath(path))
    check_parent(path, target)
    probe = _create(path, target, None)
    os.close(probe.fileno())
    os.unlink(probe.temporary)


def exists(path: Path) -> OutputError:
    return OutputError("exists", path=path, hint="--force replaces it")


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _no_room(path: Path, size: int | None, free: int | None) -> OutputError:
    needs = f"needs {human_bytes(size)}" if size is not None else "the disk is full"
    has = f", the disk has {human_bytes(free)}" if free is not None else ""
    return OutputError(f"not enough room: {needs}{has}", path=path, hint="free some space or write elsewhere")


def explain(error: OSError, path: Path, size: int | None) -> OutputError:
    """An operating system's error as one line of ours."""
    if error.errno in _NO_ROOM:
        return _no_room(path, size, _free_bytes(Path(os.path.realpath(path)).parent))
    hint = _HINTS.get(error.errno or 0)
    if error.errno == errno.EFBIG:
        return OutputError("the file system (or a limit) allows no file of this size", path=path, hint=hint)
    return OutputError(f"cannot be written: {error.strerror or error}", path=path, hint=hint)


@contextmanager
def explained(path: Path, *parts: Path) -> Iterator[None]:
    """An operating system's error in the block, of which only writing can be the cause, as an ``OutputError``.

    Args:
        path: what is being written, as the user named it.
        parts: files and folders that belong to it; an error that names any other file passes through.
    """
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        if named is not None and not any(part == named or part in named.parents for part in (path, *parts)):
            raise
        raise explain(error, path, None) from error
