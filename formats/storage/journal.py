"""What a long write has finished, so that a run after a crash goes on where it was cut off.

A text file beside the growing output. The first line names the work by a digest; each further line holds rows that are
safely on the disk, ``item:first-end`` words. Every line ends with its CRC-32, and the first that is cut or wrong ends
the journal: what follows it may be anything. A line is added only after the data it speaks of was synced.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

MAGIC = "quantmill journal 1"
_RANGE = re.compile(r"(\d{1,18}):(\d{1,18})-(\d{1,18})", re.ASCII)

_MAX_LINE = 1 << 24  # bytes; a line holds what was synced at once, a few words for each worker

Rows = tuple[int, int, int]  # (item, first, end): rows first to end, end excluded


class Finished:
    """Sets of rows, one for each item: ranges that touch become one."""

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
        """Rows of an item."""
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


class Journal:
    """The file, for one work. Not thread-safe.

    Args:
        path: the journal's; a file of another work there is replaced by the first ``add``.
        digest: of everything the output's bytes depend on.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._head = f"{MAGIC} {digest}"
        self._fd: int | None = None
        self._written = False
        lines, self._end = _sound_lines(path)
        fits = lines[:1] == [self._head]
        if not fits:
            self._end = 0
        self.finished = Finished(_parse(lines[1:]) if fits else ())

    def add(self, rows: Iterable[Rows]) -> None:
        """Write down rows whose data is on the disk already; they are in the journal when this returns."""
        words = [f"{item}:{first}-{end}" for item, first, end in rows]
        if not words:
            return
        text = _line(" ".join(words))
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            os.ftruncate(self._fd, self._end)  # without what followed the last sound line
            if not self._end:
                text = _line(self._head) + text
        written = os.pwrite(self._fd, text, self._end)
        if written < len(text):  # the disk is full: a line that is cut would hide those after it
            os.ftruncate(self._fd, self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._fd)
        self._end += written
        self._written = True

    @property
    def written(self) -> bool:
        """Whether this run has added anything."""
        return self._written

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _line(text: str) -> bytes:
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def _sound_lines(path: Path) -> tuple[list[str], int]:
    """The lines before the first damage, without their checksums, and how many bytes they take."""
    lines: list[str] = []
    end = 0
    try:
        with path.open("rb") as file:  # a line at a time: the first that is wrong ends it, whatever is left
            while (raw := file.readline(_MAX_LINE)).endswith(b"\n"):
                text = raw[:-10].decode("ascii", "replace")
                if raw != _line(text):
                    break
                lines.append(text)
                end += len(raw)
    except OSError:
        return [], 0
    return lines, end


def _parse(lines: Iterable[str]) -> Iterator[Rows]:
    for line in lines:
        for item, first, end in _RANGE.findall(line):
            yield int(item), int(first), int(end)
