"""Ctrl-C and SIGTERM end every long command at once, wherever it is, and say how to go on.

The promise is a second. A process here has three, since the machine may be busy with other tests; what it is held up
in itself (minutes of C code, a compilation) would take far longer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oracles.faults import KEPT, digest
from oracles.kills import hear_interrupts
from oracles.tiny import TEXT, save_tiny_llama

SECONDS = 3.0
# The command line, with a journal that is written often. The first argument is Python to run before it.
PROGRAM = """
import hashlib, sys, threading, time
import quantmill.formats.storage.resumable
quantmill.formats.storage.resumable.SYNC_SECONDS = 0.02

def hold(owner, name, call):
    '''That call of a function first spends minutes in C code, which looks for no signals.'''
    real, lock, calls = getattr(owner, name), threading.Lock(), [0]
    def held(*args, **more):
        with lock:
            calls[0] += 1
            number = calls[0]
        if number == call:
            time.sleep(0.3)
            print("READY", file=sys.stderr, flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
        return real(*args, **more)
    setattr(owner, name, held)

exec(sys.argv.pop(1))
from quantmill.tools.main import run
run()
"""
ENCODER = "from quantmill.quantize.encode import ChunkEncoder; hold(ChunkEncoder, 'do', 12)"
LAYER = "import torch; hold(torch.nn.Linear, 'forward', 17)"  # of 21
SEARCH = "import torch; hold(torch.nn.Linear, 'forward', 150)"  # of 231; in the second block
GPTQ = "import quantmill.quantize.gptq.layer as gptq; hold(gptq, 'quantize_linear', 10)"
COPY = "from quantmill.formats.storage.resumable import Resumable; hold(Resumable, 'done', 10)"
TEXT_OPTIONS = ["-f", "t.txt", "-c", "64", "--chunks", "3", "--save-every", "1"]

# command line, what it makes, where it is held up
CASES = {
    "quantize": (["quantize", "f16.gguf", "out/o.gguf", "Q8_0", "--threads", "2"], "o.gguf", ENCODER),
    "convert": (["convert", "hf", "out/o.gguf", "--outtype", "Q8_0", "--threads", "1"], "o.gguf", ENCODER),
    "convert to a folder": (["convert", "f16.gguf", "out/o"], "o", COPY),
    "split": (["split", "f16.gguf", "out/o", "--max-tensors", "8"], "o", COPY),
    "imatrix": (["imatrix", "-m", "hf", "-o", "out/o.gguf", *TEXT_OPTIONS], "o.gguf", LAYER),
    "gptq": (["gptq", "hf", "out/o", "--group-size", "32", *TEXT_OPTIONS], "o", GPTQ),
    "awq": (["awq", "hf", "out/o", "--group-size", "32", *TEXT_OPTIONS], "o", SEARCH),
    "release": (["release", "hf", "out/o", "--levels", "Q8_0", "--imatrix", "none"], "o", ENCODER),
}
QUICK = ("quantize", "imatrix")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "hf", layers=3)
    (folder / "t.txt").write_text(TEXT * 6)
    assert start(["convert", "hf", "f16.gguf", "--outtype", "f16"], folder).wait() == 0
    return folder


def start(words: list[str], folder: Path, before: str = "", **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, before, *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
        preexec_fn=hear_interrupts,
    )  # fmt: skip


def interrupt(process: subprocess.Popen[str], at: str, number: int, wait: float = 0.0) -> str:
    """Send a signal once a line of stderr says ``at``. Gives what was said after it.

    Raises:
        subprocess.TimeoutExpired: the process lived on.
    """
    assert process.stderr is not None
    before = ""
    while at not in before:
        line = process.stderr.readline()
        assert line, before
        before += line
    time.sleep(wait)
    begun = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    print(f"ended {time.monotonic() - begun:.2f} s after the signal")
    assert process.returncode == 130, said
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_in_the_middle_of_c_code(name: str, number: int, models: Path) -> None:
    words, made, place = CASES[name]
    out = models / "out"
    remove(out)
    out.mkdir()
    said = interrupt(start(words, models, place), "READY", number)
    assert said.rstrip().endswith("quantmill: interrupted")
    assert "the same command goes on with it" in said
    assert name == "release" or not digest(out / made)
    again = start(words, models)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert any(word in said for word in KEPT), said
    resumed = digest(out / made)
    remove(out)
    out.mkdir()
    assert start(words, models).wait() == 0
    assert digest(out / made) == resumed
    remove(out)


@pytest.mark.parametrize("level", [["Q4_K_S", "--pure"], ["Q4_K_M"]])  # one type; two, each in its own process
def test_while_kernels_are_compiled(level: list[str], models: Path, tmp_path: Path) -> None:
    words = ["quantize", str(models / "f16.gguf"), "o.gguf", *level]
    cold = start(words, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    interrupt(cold, "compiling", signal.SIGINT, wait=0.5)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


@pytest.mark.parametrize("wait", [0.0, 0.2, 0.8])
def test_while_it_begins(wait: float, models: Path, tmp_path: Path) -> None:
    """Modules are being imported: no traceback, whichever of them it falls into."""
    words = ["imatrix", "-m", str(models / "hf"), "-f", str(models / "t.txt"), "-o", "o.gguf"]
    before = "import quantmill.tools.main as m; old = m.load_command; print('READY', file=sys.stderr, flush=True)"
    said = interrupt(start(words, tmp_path, before), "READY", signal.SIGINT, wait + 0.15)
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
