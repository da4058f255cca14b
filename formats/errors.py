"""The errors that users see. Each prints as one line that names the file, the place in it and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Letters and marks by their class, which fonts draw as nothing.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def visible(text: str, keep: str = "") -> str:
    """Spell out every character that a reader cannot see: names come from files, and files from strangers.

    These are control characters (line breaks and terminal escapes among them), marks of the writing direction,
    characters without width, spaces other than the usual one, and halves of surrogate pairs (bytes that are not UTF-8).

    Args:
        text: any text.
        keep: characters to leave as they are.

    Example:
        >>> from quantmill.formats.errors import visible
        >>> print(visible("blk.0\\x1b[2J \\u202e\\n"))
        blk.0\\x1b[2J \\u202e\\n
    """
    if text.isprintable() and not _BLANK.intersection(text):
        return text
    return "".join(char if _is_seen(char) or char in keep else _spelt(char) for char in text)


def _is_seen(char: str) -> bool:
    return char.isprintable() and char not in _BLANK


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class QuantmillError(Exception):
    """An error in the input or the request. The base class of all errors that quantmill raises on purpose.

    Args:
        problem: what is wrong.
        path: the file (or folder) it was found in, if any.
        where: the place inside it: a key, a tensor's name, a byte offset.
        hint: what to do about it.

    The commands print ``str(error)`` on stderr and exit with code 2.

    Example:
        >>> from quantmill import QuantmillError
        >>> str(QuantmillError("is not a directory", path="models", hint="give a folder"))
        'models: is not a directory (give a folder)'
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | Path | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.path = path
        self.where = where
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        place = ": ".join(str(part) for part in (self.path, self.where) if part is not None)
        line = f"{place}: {self.problem}" if place else self.problem
        return visible(f"{line} ({self.hint})" if self.hint else line)


class FormatError(QuantmillError):
    """A file is truncated, damaged, or of a kind that cannot be read."""


class SourceError(FormatError):
    """A source file changed, or its disk failed, during the work. What was written before stays valid."""


class UnknownArchitecture(FormatError):
    """The model class or architecture is not supported."""


class UnmatchedTensor(FormatError):
    """A tensor matches no rule of its architecture, or a required tensor is missing."""


class TokenizerError(FormatError):
    """The tokenizer cannot be converted without a change of its behaviour."""


class PlanError(QuantmillError):
    """A request that cannot be carried out. Found before any weight is read."""


class ImportanceMissing(PlanError):
    """Some tensors need an importance matrix at the requested level, and it has no entry for them.

    Args:
        tensors: the names of these tensors.
    """

    def __init__(
        self, problem: str, *, tensors: tuple[str, ...], path: str | Path | None = None, hint: str | None = None
    ) -> None:
        super().__init__(problem, path=path, hint=hint)
        self.tensors = tensors


class WeightError(QuantmillError):
    """A weight that cannot be encoded, such as a NaN or an infinity. The message gives its index."""


class OutputError(QuantmillError):
    """The output cannot be written: for example it exists, the disk is full, or the folder is read-only."""


@contextmanager
def located(path: Path, where: str | None = None) -> Iterator[None]:
    """Let errors of a block name a file and a place in it, if they name none; plain ones become a ``FormatError``."""
    try:
        yield
    except QuantmillError as error:
        if type(error) is QuantmillError:
            raise FormatError(error.problem, path=path, where=where or error.where, hint=error.hint) from None
        error.path, error.where = error.path or path, error.where or where
        raise


def name_list(names: Sequence[str], limit: int = 10) -> str:
    """Write names for a message, at most ``limit`` of them.

    Example:
        >>> from quantmill.formats.errors import name_list
        >>> name_list(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def remedy(error: OSError) -> str | None:
    """Suggest what to do about a file that cannot be opened; None where there is nothing to suggest."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "check the permissions of the file and its folder"
    return "was it moved or deleted?" if error.errno == errno.ENOENT else None
