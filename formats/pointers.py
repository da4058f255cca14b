"""Files that only stand for others: a Git LFS or git-annex pointer, or a link that became its own text."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import FormatError

LONGEST = 1024  # bytes; the limit of Git LFS, and more than any path that was a link
_LFS = re.compile(rb"version https?://(?:git-lfs|hawser)\.github\.com/spec/.*")
_SIZE = re.compile(rb"^size (\d{1,20})\r?$", re.MULTILINE)
_ANNEX = re.compile(rb"/annex/objects/[^\n]+\n?")
_LINK = re.compile(rb"(?:\.\.[/\\])+[^\0\r\n]+")


def check_pointer(start: bytes, path: Path, *, error: type[FormatError] = FormatError) -> None:
    """Refuse a file that only stands for the one that was meant.

    Args:
        start: the file's bytes: all of a short file, or more than ``LONGEST`` of a long one.
        path: the file, for messages.
        error: the class of the error raised.

    Raises:
        FormatError: the file is a pointer of Git LFS or git-annex, or the text of a link.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.pointers import check_pointer
        >>> check_pointer(b"/annex/objects/SHA256E-s9--12", Path("m.safetensors"))
        Traceback (most recent call last):
        ...
        quantmill.formats.errors.FormatError: m.safetensors: is a git-annex pointer, not the file (git annex get it)
    """
    if len(start) > LONGEST:
        return
    if _LFS.match(start):
        size = _SIZE.search(start)
        problem = f"is a Git LFS pointer, not the file{f' of {int(size[1])} bytes' if size else ''}"
        raise error(problem, path=path, hint="git lfs pull, or download the file itself")
    if _ANNEX.fullmatch(start):
        raise error("is a git-annex pointer, not the file", path=path, hint="git annex get it")
    if _LINK.fullmatch(start):
        target = start.decode("utf-8", "replace")
        problem = f"is the text of a link to {target}, not the file"
        raise error(problem, path=path, hint="copy or download the file itself")
