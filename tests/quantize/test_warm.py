"""Kernels compiled ahead: each type once, and never where nothing can be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize import warm

PROGRAM = """
import sys
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.warm import warm
warm([BY_NAME[name] for name in sys.argv[2:]], int(sys.argv[1]), print)
print("numba" in sys.modules)
"""


def warmed(folder: Path, processes: int, *names: str) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    words = [sys.executable, "-c", PROGRAM, str(processes), *names]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_each_type_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    said = "compiling Q2_0, Q8_0 for this machine, once"
    assert warmed(folder, 2, "Q8_0", "F16", "Q2_0") == [said, "False"]  # children compiled
    assert {path.name.split(".")[0] for path in folder.glob("*.compiled")} == {"Q8_0", "Q2_0"}
    assert list(folder.glob("*/bits._encode_q2_0*.nbi"))
    assert warmed(folder, 2, "Q8_0", "F16", "Q2_0") == ["False"]
    assert warmed(folder, 2, "Q8_0", "Q1_0") == ["compiling Q1_0 for this machine, once", "True"]  # one: here


def test_nothing_can_be_kept(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert warmed(taken / "cache", 1, "F16") == ["False"]


def test_what_types_share_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IQ2 and IQ3 types have one search: the first of them goes ahead, beside others, and the rest follows together."""
    alive: list[str] = []
    seen: list[set[str]] = []

    class Child:
        def __init__(self, words: list[str], **_: Any) -> None:
            self.name, self.polls = words[-1].split("'")[1], 0
            alive.append(self.name)
            seen.append(set(alive))

        def poll(self) -> int | None:
            self.polls += 1
            if self.polls < 3:
                return None
            alive.remove(self.name)
            return 0

    monkeypatch.setattr(warm, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(warm.subprocess, "Popen", Child)
    warm.warm([BY_NAME[name] for name in ("Q5_K", "IQ3_S", "IQ3_XXS", "IQ2_S")], 2)
    assert seen == [{"IQ2_S"}, {"IQ2_S", "Q5_K"}, {"IQ3_S"}, {"IQ3_S", "IQ3_XXS"}]
    seen.clear()
    warm._mark("IQ2_S").touch()
    warm.warm([BY_NAME[name] for name in ("IQ2_S", "IQ3_S", "IQ3_XXS")], 2)
    assert seen == [{"IQ3_S"}, {"IQ3_S", "IQ3_XXS"}]
