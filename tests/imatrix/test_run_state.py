"""Entries of a run's journal that are not what a run writes: the run goes on before them, or begins anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.storage.journal import Journal
from quantmill.imatrix.run_state import RunState

KEY = {"model": "a"}
ENTRY = {
    "layer": 0, "arrays": "0" * 64, "turn": 1, "dropped": {"3": "x"}, "activations": "0" * 64,
    "file": "activations-1.bin", "report": {"names": []},
}  # fmt: skip


def entries(folder: Path, lines: list[str]) -> list[dict[str, Any]]:
    journal = Journal(folder / "journal", f"quantmill run 1 {json.dumps(KEY)}")
    for line in lines:
        journal.add(line)
    journal.close()
    return RunState(folder, KEY).entries


@pytest.mark.parametrize(
    "changes",
    [
        {"arrays": 3}, {"turn": "1"}, {"turn": True}, {"dropped": []}, {"dropped": {"x": "y"}}, {"dropped": {"3": 4}},
        {"activations": 0}, {"file": "../../etc/passwd"}, {"file": ["activations-1.bin"]}, {"file": None},
        {"activations": None},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_of_other_types_ends_the_run_before_it(changes: dict[str, Any], tmp_path: Path) -> None:
    good = json.dumps(ENTRY)
    assert entries(tmp_path, [good, json.dumps(ENTRY | changes), good]) == [ENTRY]


@pytest.mark.parametrize("line", ["", "3", "[]", "{", "null", "[" * 100_000, json.dumps({"layer": 0})])
def test_a_line_that_is_no_entry(line: str, tmp_path: Path) -> None:
    assert entries(tmp_path, [json.dumps(ENTRY), line]) == [ENTRY]
