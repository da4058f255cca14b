"""Which rows of which items a long write has finished, so that a run after a crash goes on where it was cut off.

The journal lies beside the growing output. Each line holds rows that are safely on the disk, as ``item:first-end``
words; a line is added only after the data it speaks of was synced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .journal import Journal

_RANGE = re.compile(r"(\d{1,18}):(\d{1,18})-(\d{1,18})", re.ASCII)

Rows = tuple[int, int, int]  # (item, first, end): rows first to end, end excluded


class FinishedRows:
    """For each item, the set of its rows that are finished. Ranges that touch become one.

    Example:
        >>> finished = FinishedRows([(0, 0, 8), (0, 8, 10)])
        >>> (0, 4, 10) in finished, (0, 4, 11) in finished, finished.count(0)
        (True, False, 10)
    """

    def __init__(self, rows: Iterable[Rows] = ()) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for item, first, end in rows:
            self._ranges.setdefault(item, []).append((first, end))
        for item, ranges in self._ranges.items():
            self._ranges[item] = list(_merged(sorted(ranges)))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, rows: Rows) -> bool:
        item, first, end = rows
        return any(a <= first and end <= b for a, b in self._ranges.get(item, ()))

    def count(self, item: int) -> int:
        """How many rows of an item are finished."""
        return sum(b - a for a, b in self._ranges.get(item, ()))


def _merged(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start = end = None
    for a, b in ranges:
        if end is not None and a <= end:
            end = max(end, b)
            continue
        if start is not None and end is not None:
            yield start, end
        start, end = a, b
    if start is not None and end is not None:
        yield start, end


class RowsJournal:
    """The journal of one output. Not thread-safe.

    Args:
        path: the journal's file; one of another output there is replaced by the first ``add``.
        digest: of everything the output's bytes depend on.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._journal = Journal(path, f"quantmill journal 1 {digest}")
        self.finished = FinishedRows(_parse(self._journal.lines))

    def add(self, rows: Iterable[Rows]) -> None:
        """Write down rows whose data is on the disk already; they are in the journal when this returns."""
        words = [f"{item}:{first}-{end}" for item, first, end in rows]
        if words:
            self._journal.add(" ".join(words))

    @property
    def written(self) -> bool:
        """Whether this run has added anything."""
        return self._journal.written

    def close(self) -> None:
        self._journal.close()


def _parse(lines: Iterable[str]) -> Iterator[Rows]:
    for line in lines:
        for item, first, end in _RANGE.findall(line):
            yield int(item), int(first), int(end)
