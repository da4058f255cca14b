"""Small files that are replaced whole and durably, and checksums of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .output import explained, sync_folder

_PIECE = 8 << 20  # bytes read at a time


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends, durably, or not at all.

    Only ever one process may replace a path: the file has the same temporary name (``partial_name``) in every run, so
    that what a killed process left is written over.

    Raises:
        OutputError: the file cannot be written, or the disk is full. What was at ``path`` stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "notes.txt"
        ...     with replacing(path) as file:
        ...         _ = file.write(b"all or nothing")
        ...     path.read_text()
        'all or nothing'
    """
    partial = partial_name(path)
    try:
        with explained(path, partial):
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Make ``data`` a file's whole content, durably; see ``replacing``.

    Raises:
        OutputError: the file cannot be written, or the disk is full. What was at ``path`` stays.
    """
    with replacing(path) as file:
        file.write(data)


def partial_name(path: Path) -> Path:
    """Where ``replacing`` writes before it renames; a killed process may leave it."""
    return path.with_name(f".{path.name}.partial")


def sha256_of_file(path: Path) -> str:
    """A file's SHA-256, as 64 hexadecimal digits; the file is read in pieces.

    Raises:
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     sha256_of_file(Path(file.name))[:16]
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
