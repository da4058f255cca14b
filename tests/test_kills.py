"""Nothing is lost: killed at random moments and run again, each long command ends in the bytes of a whole run."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from oracles.kills import survive

KILLS = int(os.environ.get("QUANTMILL_KILLS", "10"))  # of each command; 50 for a thorough look


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def check(words: list[str], out: Path, kills: int) -> None:
    taken_up = survive(words, out.parent, lambda: digest(out), lambda: out.unlink(missing_ok=True), kills)
    print(f"{words[0]}: {kills} of {kills} killed runs ended in the same bytes, {taken_up} were taken up")
    assert taken_up or kills < 10  # a few may all fall into the start, before there is anything to take up
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_quantize_twice(smollm2_f16: Path, tmp_path: Path) -> None:
    check(["quantize", str(smollm2_f16), "o.gguf", "Q4_K_M", "--threads", "1"], tmp_path / "o.gguf", 3)


@pytest.mark.slow
def test_quantize(smollm2_f16: Path, tmp_path: Path) -> None:
    check(["quantize", str(smollm2_f16), "o.gguf", "Q4_K_M", "--threads", "1"], tmp_path / "o.gguf", KILLS)


@pytest.mark.slow
def test_convert_in_one_pass(smollm2_hf: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(smollm2_hf, tmp_path / "in" / "smollm2")
    (tmp_path / "out").mkdir()
    words = ["convert", str(checkpoint), "o.gguf", "--outtype", "Q4_K_S", "--threads", "2"]
    check(words, tmp_path / "out" / "o.gguf", KILLS)
