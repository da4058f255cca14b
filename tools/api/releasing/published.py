"""Files of other published sets, with their figures, from a table that the publisher gives."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....formats.errors import FormatError
from ..byte_sizes import parse_size

NEEDED = ("name", "level", "size")
# The figures of ``evaluate --json``, by the same names.
FIGURES = (
    "bpw", "perplexity", "perplexity_error", "kld_mean", "kld_mean_error", "kld_p999", "top1", "top1_error",
)  # fmt: skip
_AT_LEAST = {"kld_mean": -1e-6, "kld_p999": -1e-6}  # rounding; the other figures are positive or 0
_MAX_BYTES = 1 << 20  # some thousand lines
_REMEDY = f"the first line names the columns: {', '.join(NEEDED)}, and of {', '.join(FIGURES)} those that are known"


@dataclass(frozen=True)
class PublishedFile:
    """A file of another set.

    Args:
        name: what the table and the picture call it, such as ``bartowski Q4_K_M``.
        level: its level.
        n_bytes: its size.
        figures: those that are known, by the names of ``FIGURES``.
    """

    name: str
    level: str
    n_bytes: int
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def bpw(self) -> float | None:
        """Bits per weight, if they are known."""
        return self.figures.get("bpw")


def read_published(path: Path) -> tuple[PublishedFile, ...]:
    """Read a table of published files: CSV in UTF-8, whose first line names the columns.

    ``name``, ``level`` and ``size`` (bytes, or with a unit: ``4.92GB``) are needed. The others are figures as
    ``evaluate --json`` prints them, where ``top1`` is a share from 0 to 1; a cell may be empty.

    Raises:
        FormatError: the file cannot be read, a column is unknown, missing or there twice, or a line is not such a file;
            names the line.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "others.csv")
        ...     _ = path.write_text("name,level,size,kld_mean\\nsomebody Q4_0,Q4_0,91.7MB,0.051\\n")
        ...     read_published(path)
        (PublishedFile(name='somebody Q4_0', level='Q4_0', n_bytes=91700000, figures={'kld_mean': 0.051}),)
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"has more than {_MAX_BYTES} bytes", path=path, hint="give a table of files")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8 text", path=path) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, PublishedFile] = {}
    columns: list[str] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            line = f"line {reader.line_num}"
            if columns is None:
                columns = _columns(cells, path, line)
                continue
            if len(cells) != len(columns):
                raise FormatError(f"{len(cells)} cells for {len(columns)} columns", path=path, where=line)
            one = _file(dict(zip(columns, cells, strict=True)), path, line)
            if one.name in found:
                raise FormatError(f"{one.name!r} stands there twice", path=path, where=line)
            found[one.name] = one
    except csv.Error as error:
        raise FormatError(f"is not CSV: {error}", path=path, where=f"line {reader.line_num}") from None
    if not found:
        raise FormatError("names no file", path=path, hint=_REMEDY)
    return tuple(found.values())


def _columns(cells: list[str], path: Path, line: str) -> list[str]:
    known = (*NEEDED, *FIGURES)
    for problem, names in (
        ("is no column that is known", [name for name in cells if name not in known]),
        ("stands there twice", [name for name in cells if cells.count(name) > 1]),
        ("is missing", [name for name in NEEDED if name not in cells]),
    ):
        if names:
            raise FormatError(f"{names[0]!r} {problem}", path=path, where=line, hint=_REMEDY)
    return cells


def _file(row: Mapping[str, str], path: Path, line: str) -> PublishedFile:
    for name in NEEDED:
        if not row[name]:
            raise FormatError(f"has no {name}", path=path, where=line)
    try:
        n_bytes = parse_size(row["size"])
    except (ValueError, OverflowError) as error:
        raise FormatError(f"size: {error}", path=path, where=line) from None
    if n_bytes == 0:
        raise FormatError("size: 0 bytes", path=path, where=line)
    figures = {name: _figure(name, row[name], path, line) for name in FIGURES if row.get(name)}
    return PublishedFile(row["name"], row["level"], n_bytes, figures)


def _figure(name: str, text: str, path: Path, line: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise FormatError(f"{name}: {text!r} is not a number", path=path, where=line) from None
    if not math.isfinite(value) or value < _AT_LEAST.get(name, 0.0):
        raise FormatError(f"{name}: {text} is not possible", path=path, where=line)
    if name.startswith("top1") and value > 1:
        raise FormatError(f"{name}: {text} is more than 1", path=path, where=line, hint="a share, not per cent")
    return value
