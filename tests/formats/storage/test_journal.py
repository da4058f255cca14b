"""The journal: what was written down is found again, whatever the end of the file looks like."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.storage.journal import Journal
from quantmill.formats.storage.rows_journal import FinishedRows, RowsJournal


def test_what_is_added_is_found(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = RowsJournal(path, "abc")
    assert not journal.finished
    assert not path.exists()  # nothing done, nothing written
    journal.add([(0, 0, 8), (3, 16, 32)])
    journal.add([(0, 8, 10)])
    journal.add([])
    journal.close()
    finished = RowsJournal(path, "abc").finished
    assert (0, 0, 10) in finished  # two ranges that touch
    assert (0, 0, 11) not in finished
    assert (3, 20, 32) in finished
    assert (3, 8, 20) not in finished
    assert (1, 0, 1) not in finished
    assert [finished.count(item) for item in (0, 1, 3)] == [10, 0, 16]


def test_another_work_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = RowsJournal(path, "abc")
    first.add([(0, 0, 8)])
    first.close()
    other = RowsJournal(path, "abd")
    assert not other.finished
    other.add([(1, 0, 2)])
    other.close()
    assert (1, 0, 2) in RowsJournal(path, "abd").finished
    assert not RowsJournal(path, "abc").finished


def test_a_full_disk_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "j", os.pwrite
    journal = RowsJournal(path, "abc")
    journal.add([(0, 0, 8)])
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:5], at))
    with pytest.raises(OSError, match="No space left"):
        journal.add([(1, 0, 8)])
    monkeypatch.undo()
    journal.add([(2, 0, 8)])  # there is room again
    journal.close()
    finished = RowsJournal(path, "abc").finished
    assert (0, 0, 8) in finished
    assert (1, 0, 8) not in finished
    assert (2, 0, 8) in finished


def test_a_cut_or_damaged_end_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = RowsJournal(path, "abc")
    for i in range(5):
        journal.add([(i, 0, 100 + i)])
    journal.close()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    rng = random.Random(0)
    for _ in range(200):
        at = rng.randrange(len(whole))
        damaged = (
            whole[:at]
            if rng.random() < 0.5
            else whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
        )
        sound = 0
        while sound < len(lines) and damaged.startswith(b"".join(lines[: sound + 1])):
            sound += 1
        path.write_bytes(damaged)
        again = RowsJournal(path, "abc")
        assert [i for i in range(5) if (i, 0, 100 + i) in again.finished] == list(range(sound - 1))
        again.add([(7, 0, 1)])  # over the damage
        again.close()
        assert (7, 0, 1) in RowsJournal(path, "abc").finished


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 9))), st.data())
def test_ranges_against_a_set(parts: list[tuple[int, int, int]], data: st.DataObject) -> None:
    finished = FinishedRows((item, first, first + n) for item, first, n in parts)
    rows = {(item, row) for item, first, n in parts for row in range(first, first + n)}
    item, first, n = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 9)))
    assert ((item, first, first + n) in finished) == all((item, row) in rows for row in range(first, first + n))
    assert finished.count(item) == sum(i == item for i, _ in rows)


def test_lines_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, "kind 1")
    for text in ("a", "\u00e9", "c"):
        journal.add(text)
    journal.keep(2)
    assert Journal(path, "kind 1").lines == ["a", "\u00e9"]
    journal.add("d")
    journal.close()
    assert Journal(path, "kind 1").lines == ["a", "\u00e9", "d"]
    other = Journal(path, "kind 2")
    assert (other.lines, other.other) == ([], "kind 1")
    other.keep(0)
    assert not path.exists()
    assert Journal(path, "kind 1").other is None
    other.add("x")
    other.close()
    assert Journal(path, "kind 2").lines == ["x"]
