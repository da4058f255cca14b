"""``kill -9`` in the middle of a command, then the command again: what a crash may and may not cost."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

KILLS = int(os.environ.get("QUANTMILL_KILLS", "5"))  # of each command; 50 for a thorough look
CALIBRATION = ["-f", "SRC/text.txt", "-c", "64", "--chunks", "4", "--save-every", "1"]
REFINED = ["--refine", "-f", "SRC/text.txt", "-c", "64", "--chunks", "4", "--threads", "1"]
PACKED = ["--format", "compressed-tensors"]
# Command line, and what it makes; SRC/smollm2 and its F16 GGUF are real, SRC/small and SRC/experts are random and six
# layers deep.
WRITING = {
    "quantize": (["quantize", "SRC/f16.gguf", "o.gguf", "Q4_K_M", "--threads", "1"], "o.gguf"),
    "convert in one pass": (["convert", "SRC/smollm2", "o.gguf", "--outtype", "Q4_K_S", "--threads", "2"], "o.gguf"),
    "convert to a folder": (["convert", "SRC/f16.gguf", "o", "--outtype", "bf16"], "o"),
    "compress": (["compress", "SRC/smollm2", "o", "--scheme", "w4a16", "--group-size", "64", "--threads", "1"], "o"),
    "release": (["release", "SRC/smollm2", "o", "--levels", "Q4_K_M,Q8_0", "--imatrix", "none"], "o"),
}
RUNNING = {
    "imatrix": (["imatrix", "-m", "SRC/smollm2", "-o", "o.gguf", *CALIBRATION], "o.gguf"),
    "gptq": (["gptq", "SRC/small", "o", "--group-size", "32", *CALIBRATION], "o"),
    "compress with a text": (["compress", "SRC/small", "o", "--scheme", "nvfp4", *CALIBRATION], "o"),
    "awq": (["awq", "SRC/small", "o", "--group-size", "32", *CALIBRATION], "o"),
    "refine by a text": (["convert", "SRC/small", "o.gguf", "--outtype", "Q2_K", *REFINED], "o.gguf"),
    "gptq of experts": (["gptq", "SRC/experts", "o", "--group-size", "32", *CALIBRATION, *PACKED], "o"),
}
COMMANDS = WRITING | RUNNING
# The command line, with a journal that is written often enough for short commands to have one. The first argument is
# Python to run before it.
PROGRAM = """
import sys
import quantmill.formats.storage.resumable
quantmill.formats.storage.resumable.SYNC_SECONDS = 0.02
exec(sys.argv.pop(1))
from quantmill.tools.main import run
run()
"""
EARLIEST, LATEST = 0.2, 0.95  # of a whole run's time
TAKEN_UP = ("going on", "taken up")


def hear_interrupts() -> None:
    """In a child, before its program: a shell's background jobs, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(*words: str, before: str = "") -> list[str]:
    """What runs ``quantmill words``, its journal written often. ``before``: Python to run first."""
    return [sys.executable, "-c", PROGRAM, before, *words]


def run(words: list[str], folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words, before=before), cwd=folder, capture_output=True, text=True, check=False)


def survive(
    words: list[str], folder: Path, result: Callable[[], str], forget: Callable[[], None], kills: int, before: str = ""
) -> int:
    """Kill a command ``kills`` times at random moments spread over its life, run it again each time and compare.

    Args:
        words: of the command line, after ``quantmill``.
        result: what it made, as a digest; empty while it has not ended.
        forget: remove what it made.
        before: Python to run in its process first.

    Returns:
        how often the second run took up the first one's work.
    """
    rng = random.Random(0)
    run(words, folder, before)  # whatever is compiled or cached
    forget()
    start = time.monotonic()
    whole = run(words, folder, before)
    assert whole.returncode == 0, whole.stderr
    seconds, expected = time.monotonic() - start, result()
    assert expected
    taken_up = 0
    for number in range(kills):
        forget()
        moment = EARLIEST + (LATEST - EARLIEST) * (number + rng.random()) / kills
        while True:
            process = subprocess.Popen(
                command(*words, before=before),
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(moment * seconds)
            process.kill()
            process.wait()
            if not result():
                break
            assert result() == expected, f"kill {number}: an unfinished output has its name"
            forget()  # it was faster this time
            moment = rng.uniform(EARLIEST, moment)
        again = run(words, folder, before)
        assert again.returncode == 0, f"kill {number}: {again.stderr}"
        assert result() == expected, f"kill {number}: other bytes"
        taken_up += any(word in again.stderr for word in TAKEN_UP)
    return taken_up


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
    assert taken_up or kills < 10  # the first may all fall into the start, before there is anything to take up
    assert [path.name for path in folder.iterdir()] == [made]
    return f"{name}: {kills} of {kills} killed runs ended in the same bytes, {taken_up} were taken up"
