"""Nothing is lost: killed at random moments and run again, each long command ends in the bytes of a whole run."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from oracles.kills import survive
from oracles.tiny import TEXT, save_tiny_llama

KILLS = int(os.environ.get("QUANTMILL_KILLS", "6"))  # of each command; 50 for a thorough look
CALIBRATION = ["-f", "SRC/text.txt", "-c", "64", "--chunks", "4", "--save-every", "1"]
# command line, and what it makes; SRC/smollm2 and its F16 GGUF are real, SRC/small is random and six layers deep
COMMANDS = {
    "quantize": (["quantize", "SRC/f16.gguf", "o.gguf", "Q4_K_M", "--threads", "1"], "o.gguf"),
    "convert in one pass": (["convert", "SRC/smollm2", "o.gguf", "--outtype", "Q4_K_S", "--threads", "2"], "o.gguf"),
    "convert to a folder": (["convert", "SRC/f16.gguf", "o", "--outtype", "bf16"], "o"),
    "imatrix": (["imatrix", "-m", "SRC/smollm2", "-o", "o.gguf", *CALIBRATION], "o.gguf"),
    "gptq": (["gptq", "SRC/small", "o", "--group-size", "32", *CALIBRATION], "o"),
    "awq": (["awq", "SRC/small", "o", "--group-size", "32", *CALIBRATION], "o"),
    "release": (["release", "SRC/smollm2", "o", "--levels", "Q4_K_M,Q8_0", "--imatrix", "none"], "o"),
}


@pytest.fixture(scope="module")
def sources(smollm2_hf: Path, smollm2_f16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(smollm2_hf, folder / "smollm2")
    (folder / "f16.gguf").symlink_to(smollm2_f16)
    save_tiny_llama(folder / "small", layers=6, hidden=256)
    (folder / "text.txt").write_text(TEXT * 20)
    return folder


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's; empty for what has not ended. A release works in its own folder, where
    hidden files say that it is not whole."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    if not files or any(file.name.startswith(".") for file in files):
        return ""
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check(name: str, sources: Path, folder: Path, kills: int, before: str = "") -> str:
    """Gives what was counted. ``before``: Python to run in the command's process first."""
    words, made = COMMANDS[name]
    folder.mkdir()
    words = [word.replace("SRC", str(sources)) for word in words]
    out = folder / made
    taken_up = survive(words, folder, lambda: digest(out), lambda: remove(out), kills, before)
    assert taken_up or kills < 6  # the first may all fall into the start, before there is anything to take up
    assert [path.name for path in folder.iterdir()] == [made]
    return f"{name}: {kills} of {kills} killed runs ended in the same bytes, {taken_up} were taken up"


def test_quantize_twice(sources: Path, tmp_path: Path) -> None:
    check("quantize", sources, tmp_path / "out", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_at_random_moments(name: str, sources: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    record_property("counts", check(name, sources, tmp_path / "out", KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quantize", "convert in one pass"])
def test_past_the_cache(name: str, sources: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """As models are read and written that do not fit it; the bytes are those of the ordinary way."""
    check(name, sources, tmp_path / "ordinary", 0)
    before = "from quantmill.formats.storage import uncached; uncached._room = lambda: -1"
    counts = check(name, sources, tmp_path / "past", KILLS, before)
    made = COMMANDS[name][1]
    assert digest(tmp_path / "past" / made) == digest(tmp_path / "ordinary" / made)
    record_property("counts", f"past the cache: {counts}")
