"""Faults in the middle of a command: at a chosen read of its source something happens to files, folders or disks."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantmill.formats.storage.source import SourceFile

KEPT = ("going on", "taken up")
_DAC = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root ignore permissions


@dataclass(frozen=True)
class Done:
    """What a command left behind; ``reads`` of its source files."""

    code: int
    err: str
    reads: int


def run(words: list[str], sources: Path, fault: tuple[int, Callable[[Path], None]] | None = None) -> Done:
    """Run a command in this process.

    Args:
        words: of the command line, after ``quantmill``.
        sources: the folder that holds what it reads.
        fault: a read's number, and what happens just before it; told the file that is read.
    """
    from quantmill.tools.main import load_command, main

    real, reads = SourceFile.read, 0

    def read(self: SourceFile, start: int, n: int, where: str | None = None) -> object:
        nonlocal reads
        if sources in self.path.parents:
            reads += 1
            if fault is not None and reads == fault[0]:
                fault[1](self.path)
        return real(self, start, n, where)

    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(err), redirect_stdout(io.StringIO()):
        patch.setattr(SourceFile, "read", read)
        patch.setattr("quantmill.formats.storage.resumable.SYNC_SECONDS", 0.01)
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main(load_command(words[0]), words[0])
    assert isinstance(end.value.code, int)
    return Done(end.value.code, err.getvalue(), reads)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the weights of a folder or a set of shards; empty when there is nothing."""
    found = hashlib.sha256()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".gguf", ".safetensors"))
    else:
        files = [path] if path.exists() else sorted(path.parent.glob(f"{path.name}-*-of-*.gguf"))
    for file in files:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest() if files else ""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], bool]]:
    """``folder`` on a disk of its own, where this process may mount one. Gives a function that does ``fill`` (no byte
    is left), ``free``, ``lock`` (read-only) and ``unlock`` to it: with the disk, or, where it may not, with limits of
    this process and permissions that have the same effect. It says whether it is a disk."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield (lambda what: _on_disk(folder, what)) if mounted else (lambda what: _on_process(folder, what))
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            _on_process(folder, "free")
            _on_process(folder, "unlock")


def _on_disk(folder: Path, what: str) -> bool:
    filler = folder / "filler"
    if what == "fill":
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
    elif what == "free":
        filler.unlink(missing_ok=True)
    else:
        mode = "ro" if what == "lock" else "rw"
        subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)
    return True


def _on_process(folder: Path, what: str) -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if what in ("fill", "free"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 if what == "fill" else hard, hard))
    else:
        folder.chmod(0o500 if what == "lock" else 0o700)
        if os.geteuid() == 0:
            _set_override(what != "lock")
    return False


@contextmanager
def without_override() -> Iterator[None]:
    """Permissions count for root too."""
    if os.geteuid() == 0:
        _set_override(False)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            _set_override(True)


def _set_override(on: bool) -> None:
    """Of the calling thread, and of those it starts: capabilities(7), version 3 of the calls."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, data) == 0
    for number in _DAC:
        data[0] = data[0] | 1 << number & data[1] if on else data[0] & ~(1 << number)
    assert libc.capset(head, data) == 0, os.strerror(ctypes.get_errno())
