"""A large file that goes on where a killed download of it stopped.

``hf_hub_download`` of huggingface_hub 2.4 goes on after a cut connection, but begins anew in another process: each call
writes to a temporary file with a name of its own (``_download_to_tmp_and_move``). Here the temporary file is called by
the file's SHA-256, so that what an earlier run left is of the same content; it is asked for by ranges from its end on.
The whole is hashed at the end (``Repository``), so that a damaged beginning is found, too.

It takes only what huggingface_hub documents: ``hf_hub_url``, ``get_session``, ``build_hf_headers``,
``hf_raise_for_status``, and the layout of its cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import Progress, RowsDone, emit
from ..storage.resumable import is_same_file, try_lock
from .faults import EndedEarly

if TYPE_CHECKING:
    from httpx2 import Response

PIECE = 1 << 20  # bytes written at once; a connection that is cut after more has been of use, and is no fault yet

Call = Callable[[Callable[[], Any]], Any]


def part_of(path: Path, sha256: str) -> Path:
    """Where a file grows until it is complete: beside its place, called by its content."""
    return path.with_name(f".{sha256}.part")


def download(url: str, path: Path, sha256: str, size: int, call: Call, progress: Progress | None) -> None:
    """Bring a large file to its place, from where an earlier run stopped.

    Args:
        url: of the file at its commit.
        path: its place, which it takes when it is complete.
        sha256: its hash, by which a part of it is known. What it holds is not checked here.
        size: in bytes.
        call: calls the hub, again after a pause where that may help.
        progress: told of the bytes that are there.

    Raises:
        OSError: the disk is full, or cannot be written. FormatError: from ``call``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path, sha256)
    with part.open("ab", buffering=0) as growing:
        if try_lock(growing.fileno()) and is_same_file(part, growing.fileno()):
            _complete(url, size, growing, call, progress)
            os.replace(part, path)
            return
    own = part.with_name(f"{part.name}.{os.getpid()}")  # another process is at it
    try:
        with own.open("wb", buffering=0) as growing:
            _complete(url, size, growing, call, progress)
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)


def _complete(url: str, size: int, growing: FileIO, call: Call, progress: Progress | None) -> None:
    have = growing.seek(0, os.SEEK_END)
    if have > size:
        growing.truncate(have := 0)
    emit(progress, RowsDone(have))
    while growing.tell() < size:
        call(lambda: _receive(url, growing, progress))


def _receive(url: str, growing: FileIO, progress: Progress | None) -> None:
    """Ask for what is missing, and append what comes.

    Raises:
        HfHubHTTPError: the hub refuses. httpx2.TransportError: the connection failed before it was of any use.
    """
    import httpx2
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined, unused-ignore]

    start = growing.seek(0, os.SEEK_END)
    headers = {**build_hf_headers(library_name="quantmill"), "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    try:
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            if not _continues(response, start):
                growing.truncate(0)
                emit(progress, RowsDone(-start))
                start = growing.seek(0)
            for piece in response.iter_bytes():
                write(growing, piece)
                emit(progress, RowsDone(len(piece)))
    except httpx2.TransportError:
        if growing.tell() - start < PIECE:
            raise
    if growing.tell() == start:
        raise EndedEarly


def _continues(response: Response, start: int) -> bool:
    """Whether an answer holds the file's bytes from ``start`` on, and not the whole file."""
    if response.status_code != 206:
        return start == 0
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def write(growing: FileIO, piece: bytes) -> None:
    growing.write(piece)
