"""Kernels compiled ahead: each type once, and never where nothing can be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    assert len(list(folder.glob("Q8_0.*.image"))) == 1
    assert list(folder.glob("*/bits._encode_q2_0*.nbi"))
    assert warmed(folder, 2, "Q8_0", "F16", "Q2_0") == ["False"]
    assert warmed(folder, 2, "Q8_0", "Q1_0") == ["compiling Q1_0 for this machine, once", "True"]  # one: here


def test_nothing_can_be_kept(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert warmed(taken / "cache", 1, "F16") == ["False"]
