"""Output files that are either whole or absent: written under a temporary name, synced to the disk, then renamed.

Disk space is reserved before any work, so that a full disk is one clear error in the first second, not the last.
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
from typing import Any, TypeAlias, cast

from numpy.typing import NDArray

from ..errors import OutputError
from .uncached import Uncached

Data: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SEND_AFTER = 64 << 20  # bytes; then the disk is told to begin writing them
_HINTS = {
    errno.EACCES: "the folder's permissions do not allow it: change them, or choose another folder",
    errno.EPERM: "the folder's permissions do not allow it: change them, or choose another folder",
    errno.EROFS: "choose a folder that can be written, or mount it so",
    errno.EIO: "the disk failed: write elsewhere",
    errno.EFBIG: "raise the limit (ulimit -f), or write to another file system",
}
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class Output:
    """An open file that grows under a temporary name. Made by ``atomic_output`` and its like.

    Args:
        target: its final path, as the user named it.
        temporary: its path until then.
        fd: the file, open for reading and writing.
    """

    def __init__(self, target: Path, temporary: Path, fd: int) -> None:
        self.path = target
        self.temporary = temporary
        self._fd = fd
        self._uncached = Uncached(fd, os.fstat(fd).st_size)
        self._end = 0
        self._unsent = 0

    def fileno(self) -> int:
        return self._fd

    def write_at(self, offset: int, data: Data) -> None:
        """Write all of a buffer (bytes, or a C-contiguous array) at a file offset, in bytes. Thread-safe.

        Raises:
            OutputError: the disk is full, or failed.
        """
        view = _memory(data)
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

    def write(self, data: Data) -> None:
        """Append after the last ``write``, for formats whose size is not known in advance. Not thread-safe.

        Raises:
            OutputError: the disk is full, or failed.
        """
        self.write_at(self._end, data)
        self._end += _memory(data).nbytes

    def reserve(self, size: int) -> None:
        """Make the file ``size`` bytes long, all zeros, and reserve the disk space for them.

        Raises:
            OutputError: the disk does not have the space.
        """
        check_room(self.temporary.parent, size, self.path)
        self._uncached.resize(size)
        if not size:
            return
        try:
            os.posix_fallocate(self._fd, 0, size)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _CANNOT_RESERVE:
                raise explain(error, self.path, size) from error
            os.ftruncate(self._fd, size)  # a file system (or platform) that cannot reserve


def _memory(data: Data) -> memoryview:
    view = memoryview(cast(bytes, data))  # arrays have buffers, which their types tell only since Python 3.12
    return view.cast("B") if view.nbytes else memoryview(b"")


@contextmanager
def atomic_output(
    path: str | Path, size: int | None = None, force: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[Output]:
    """Create a file that appears at ``path`` whole when the block ends, or not at all when it raises.

    Args:
        path: the target; a link is followed, so that the file it points to is replaced.
        size: its final size in bytes, reserved at once; None when it is not known.
        force: whether an existing file may be replaced. It stays readable (and whole) until the rename.
        inputs: files being read, which the target must not be.

    Raises:
        OutputError: the target exists, is an input or not a regular file, the folder cannot be written, the disk is
            full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.bin"
        ...     with atomic_output(path, size=6) as output:
        ...         output.write_at(4, b"!!")
        ...         output.write_at(0, b"whol")
        ...     path.read_bytes()
        b'whol!!'
    """
    with atomic_outputs([(path, size)], force, inputs) as (output,):
        yield output


@contextmanager
def atomic_outputs(
    files: Iterable[tuple[str | Path, int | None]], force: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[tuple[Output, ...]]:
    """Create several files that appear together when the block ends, or not at all; see ``atomic_output``.

    The first is renamed last: should the machine fail between two renames, the set lacks the file that readers begin
    with. An error undoes the renames that were done.

    Args:
        files: each file's path and size, as in ``atomic_output``.
        force, inputs: as in ``atomic_output``.
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
        # 0o666 less the umask: the permissions that an ordinary program gives its output.
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise explain(error, path, size) from error
    return Output(path, temporary, fd)


def rename_all(outputs: list[Output], targets: list[Path], force: bool) -> None:
    """Give every file its final name, the first file last. Several files keep what they replace until all are renamed.

    Raises:
        OutputError: a target came into being meanwhile, and may not be replaced.
        OSError: a rename failed.
    """
    keeps = len(outputs) > 1
    done: list[tuple[Path, Path | None]] = []
    try:
        for output, target in reversed(list(zip(outputs, targets, strict=True))):
            if target.exists() and not force:
                raise exists_error(output.path)  # it was created while we worked
            old = _link(target) if keeps and target.exists() else None
            done.append((target, old))
            os.replace(output.temporary, target)
    except BaseException:
        for (target, old), output in zip(done, reversed(outputs), strict=False):
            if old is not None:
                os.replace(old, target)
                with suppress(FileNotFoundError):
                    os.unlink(old)  # POSIX: renaming one hard link of a file to another does nothing
            elif keeps and not output.temporary.exists():
                os.replace(target, output.temporary)
        raise
    for _, old in done:
        if old is not None:
            os.unlink(old)


def _link(target: Path) -> Path:
    """Make a second name for a file that is about to be replaced."""
    name = temporary_name(target)
    try:
        os.link(target, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(target, name)
    return name


def sync_folder(folder: Path) -> None:
    """Make the renames in ``folder`` durable, on systems that can sync a folder."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def human_bytes(n: int) -> str:
    """A size as text in decimal units, as disks and published models give theirs.

    Example:
        >>> human_bytes(1_500_000_000), human_bytes(999)
        ('1.5 GB', '999 bytes')
    """
    size = float(n)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{n} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_target(path: Path, target: Path, force: bool, inputs: Iterable[str | Path]) -> None:
    """Raise ``OutputError`` unless a file may be made at ``path``, which ``target`` is without its links."""
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
        raise OutputError("is not a regular file; it cannot be replaced", path=path)
    if not force:
        raise exists_error(path)


def check_parent(path: Path, target: Path) -> None:
    """Raise ``OutputError`` unless the folder that is to hold ``target`` exists."""
    if not target.parent.is_dir():
        raise OutputError(f"there is no folder {target.parent}", path=path, hint="create it first")


def _same_file(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def temporary_name(target: Path) -> Path:
    """A new hidden name beside ``target``."""
    # The stem is cut so that a name at the file system's limit of 255 bytes still has a temporary one.
    stem = os.fsencode(target.name)[:200].decode("utf-8", "ignore")
    return target.parent / f".{stem}.{os.urandom(4).hex()}.tmp"


def _start_writing(fd: int) -> None:
    """Start writing what the page cache holds to the disk, without waiting, so that the sync at the end is short.

    This is Linux's ``sync_file_range`` with SYNC_FILE_RANGE_WRITE; elsewhere the final sync does all the work.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, 0, 0, 2)  # the sync reports errors


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
    """Bring an open file to the disk, or raise ``OutputError``."""
    try:
        os.fsync(fd)
    except OSError as error:  # with delayed allocation, and on network disks, a full disk is reported only here
        raise explain(error, path, None) from error


def check_room(folder: Path, size: int, path: Path) -> None:
    """Raise ``OutputError`` when the disk of ``folder`` lacks ``size`` free bytes for what becomes ``path``."""
    free = _free_bytes(folder)
    if free is not None and free < size:
        raise _no_room(path, size, free)


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` when no file can be made beside ``path``: better now than after hours of work."""
    target = Path(os.path.realpath(path))
    check_parent(path, target)
    probe = _create(path, target, None)
    os.close(probe.fileno())
    os.unlink(probe.temporary)


def exists_error(path: Path) -> OutputError:
    """The error that the output exists already."""
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
    """The operating system's error as an ``OutputError``.

    Args:
        error: from writing.
        path: what is being written, as the user named it.
        size: bytes that were to be written, where that is known.
    """
    if error.errno in _NO_ROOM:
        return _no_room(path, size, _free_bytes(Path(os.path.realpath(path)).parent))
    hint = _HINTS.get(error.errno or 0)
    if error.errno == errno.EFBIG:
        return OutputError("the file system (or a limit) allows no file of this size", path=path, hint=hint)
    return OutputError(f"cannot be written: {error.strerror or error}", path=path, hint=hint)


@contextmanager
def explained(path: Path, *parts: Path) -> Iterator[None]:
    """Turn the operating system's errors in the block, which only writes, into ``OutputError``.

    Args:
        path: what is being written, as the user named it.
        parts: files and folders that belong to it. An error that names any other file passes through.
    """
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        if named is not None and not any(part == named or part in named.parents for part in (path, *parts)):
            raise
        raise explain(error, path, None) from error
