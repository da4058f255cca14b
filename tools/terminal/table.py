"""Print tables of text on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...formats.errors import visible
from .lines import print_line


def format_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: int = 0) -> list[str]:
    """Align the cells of a table in columns that are two spaces apart.

    Args:
        rows: the cells of each row, the heading's first; a row may be shorter than others.
        right: indexes of the columns that are aligned to the right; the others are aligned to the left.
        indent: spaces before each line.

    Returns:
        A line for each row, in which control characters are spelt out. A cell on the left with nothing after it does
        not widen its column, so that a long text at a row's end leaves the other rows as they are.

    Example:
        >>> print("\\n".join(format_table([("type", "tensors"), ("Q4_K", "96"), ("F32", "a few")], right=[1])))
        type  tensors
        Q4_K       96
        F32     a few
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [0] * max((len(row) for row in rows), default=0)
    for row in rows:
        for i, cell in enumerate(row):
            if i in right or any(row[i + 1 :]):
                widths[i] = max(widths[i], len(cell))
    lines = []
    for row in rows:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


def print_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: int = 0) -> None:
    """Print a table on stdout; see ``format_table``."""
    for line in format_table(rows, right=right, indent=indent):
        print_line(line)
