"""A journal: an append-only text file of checksummed lines, which is sound up to its last whole line after any crash.

The first line names the work, so that the journal of another work is never taken for one's own. Every line ends with
the CRC-32 of its text; the first line that is cut or wrong ends the journal, since what follows it may be anything.
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

_MAX_LINE = 1 << 26  # bytes; lines of a few kB are usual, and a file without line ends must not fill the memory


class Journal:
    """The lines that earlier runs of a work wrote down, and a way to add more. Not thread-safe.

    Args:
        path: the file. It need not exist; ``add`` makes it, and replaces the journal of another work.
        head: the first line: the kind of journal, and everything that the work's result depends on. One line of text.

    Attributes:
        lines: the sound lines after the first, without their checksums; empty where the journal is another work's.
        other: the first line of another work's journal that is there; None where there is none.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> journal = Journal(Path(folder.name) / "journal", "letters 1")
        >>> journal.add("a"); journal.add("b"); journal.close()
        >>> Journal(journal.path, "letters 1").lines
        ['a', 'b']
        >>> _ = journal.path.write_bytes(journal.path.read_bytes()[:-1])  # the last line was cut off by a crash
        >>> Journal(journal.path, "letters 1").lines
        ['a']
        >>> Journal(journal.path, "letters 2").lines
        []
        >>> folder.cleanup()
    """

    def __init__(self, path: Path, head: str) -> None:
        assert "\n" not in head, head
        self.path = path
        self.written = False  # whether this object has added anything
        self._head = head
        self._fd: int | None = None
        found = sound_lines(path)
        self.other = found[0] if found and found[0] != head else None
        self.lines = found[1:] if found and self.other is None else []
        self._end = sum(len(_encoded(line)) for line in found) if found and self.other is None else 0

    def add(self, text: str) -> None:
        """Append a line; it is on the disk when this returns.

        Raises:
            OSError: the disk is full, or failed. The journal is what it was before.
        """
        assert "\n" not in text, text
        data = _encoded(text)
        if not self._end:
            data = _encoded(self._head) + data
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            os.ftruncate(self._fd, self._end)  # without what followed the last sound line
        written = os.pwrite(self._fd, data, self._end)
        if written < len(data):  # the disk is full: a line that is cut would hide those after it
            os.ftruncate(self._fd, self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._fd)
        self._end += written
        self.lines.append(text)
        self.written = True

    def keep(self, n: int) -> None:
        """Forget all but the first ``n`` lines, at once. Without any, the file is removed.

        Raises:
            OSError: the file cannot be changed.
        """
        self.close()
        del self.lines[n:]
        if not self.lines:
            self._end, self.other = 0, None
            self.path.unlink(missing_ok=True)
            return
        self._end = sum(len(_encoded(line)) for line in (self._head, *self.lines))
        os.truncate(self.path, self._end)

    def close(self) -> None:
        """Close the file; a later ``add`` opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def sound_lines(path: Path) -> list[str]:
    """The lines of a journal before the first damage, without their checksums; none where it cannot be read."""
    lines: list[str] = []
    try:
        with path.open("rb") as file:  # a line at a time: the first that is wrong ends it, whatever is left
            while (raw := file.readline(_MAX_LINE)).endswith(b"\n"):
                text = raw[:-10].decode("utf-8", "replace")
                if raw != _encoded(text):
                    break
                lines.append(text)
    except OSError:
        return []
    return lines


def _encoded(text: str) -> bytes:
    data = text.encode()
    return data + b" %08x\n" % zlib.crc32(data)
