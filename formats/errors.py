"""The errors a user can meet: one line each, naming the file, the place and the remedy."""

from __future__ import annotations

import errno
from pathlib import Path


class QuantmillError(Exception):
    """A mistake in the input or the request, told in one line.

    Args:
        problem: what is wrong, in the field's words.
        path: the file (or folder) it was found in, if any.
        where: the place inside it: a key, a tensor's name, a byte offset.
        hint: what to do about it.

    The commands print ``str(error)`` on stderr and exit with code 2.
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
        line = f"{line} ({self.hint})" if self.hint else line
        # Names come from files: one with a line's end or a terminal's escape in it must not act on the terminal.
        return line if line.isprintable() else "".join(map(_visible, line))


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


class FormatError(QuantmillError):
    """A file is not what it claims to be: truncated, damaged, or of a kind we do not read."""


class SourceError(FormatError):
    """A file changed, or its disk failed, while we worked from it: what is done so far stays good."""


class UnknownArchitecture(FormatError):
    """The checkpoint's model class is in no table of ours."""


class UnmatchedTensor(FormatError):
    """A tensor's name fits no rule of its architecture, or a rule found no tensor."""


class TokenizerError(FormatError):
    """The tokenizer cannot be carried over faithfully."""


class PlanError(QuantmillError):
    """A wish that cannot be fulfilled, found before any weight is read."""


class ImportanceMissing(PlanError):
    """Tensors need importance at this level and have none.

    Args:
        tensors: their names.
    """

    def __init__(
        self, problem: str, *, tensors: tuple[str, ...], path: str | Path | None = None, hint: str | None = None
    ) -> None:
        super().__init__(problem, path=path, hint=hint)
        self.tensors = tensors


class WeightError(QuantmillError):
    """A weight that cannot be encoded (NaN or Inf), named with its index."""


class OutputError(QuantmillError):
    """The output cannot be written: it exists, the disk is full, the folder is read-only."""


def remedy(error: OSError) -> str | None:
    """What to do about a file that cannot be opened."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "its permissions, or its folder's, do not allow it: change them"
    return "was it moved or deleted?" if error.errno == errno.ENOENT else None
