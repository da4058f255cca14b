"""The endings of file names, in capitals or not: ``MODEL.GGUF`` is a GGUF file, read or written."""

from __future__ import annotations

from os import PathLike
from pathlib import PurePath


def ending(path: str | PathLike[str]) -> str:
    """The ending of a file's name in small letters, with its dot; empty if there is none.

    Example:
        >>> from quantmill.formats.storage.endings import ending
        >>> ending("MODEL.Q8_0.GGUF")
        '.gguf'
    """
    return PurePath(path).suffix.lower()


def without_ending(name: str, wanted: str) -> str:
    """A file's name without an ending, given in small letters; the whole name if it has another one.

    Example:
        >>> from quantmill.formats.storage.endings import without_ending
        >>> without_ending("Model.GGUF", ".gguf"), without_ending("model.v2", ".gguf")
        ('Model', 'model.v2')
    """
    return name[: -len(wanted)] if name.lower().endswith(wanted) else name
