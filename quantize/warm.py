"""Compile the kernels of a plan before its work, on all cores: in one process numba compiles one function at a time.

An empty file in the cache marks each type that an earlier run has compiled. A wrong mark costs only time, because
what is not in numba's cache is compiled when it is called.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ..formats.qtypes import BY_NAME, F16, QType
from ..formats.storage.interrupts import when_cut_off
from .kernels import kernel_for
from .kernels.cachedir import cache_dir, numba_version, sources_digest

_COMPILE = "from quantmill.quantize.warm import compile_type; compile_type({!r})"
_LONG = ("IQ1", "IQ2", "IQ3")  # those with codebooks take longest to compile ...
_LATTICE = ("IQ2", "IQ3")  # ... and most of it is the one search that these share
_NO_CODE = {"F32", "F16", "BF16"}  # done by numpy, or compiled too quickly to wait for


def warm(types: Iterable[QType], processes: int, say: Callable[[str], object] | None = None) -> None:
    """Compile the encoders that no earlier run has compiled, each in a process of its own.

    Args:
        types: the types that a plan writes. One alone is compiled in this process; so are all if nothing can be kept.
        processes: how many processes compile at a time.
        say: called with one line before the wait.
    """
    missing = sorted(type.name for type in types if type.name not in _NO_CODE and not _mark(type.name).exists())
    missing.sort(key=lambda name: not name.startswith(_LONG))  # first, so that all end together
    if not missing:
        return
    if say is not None:
        say(f"compiling {', '.join(sorted(missing))} for this machine, once")
    if min(len(missing), processes) > 1 and _can_keep():
        _compile_apart(missing, processes)
    else:
        for name in missing:
            compile_type(name)


def compile_type(name: str) -> None:
    """Let numba compile a type's encoder and keep the machine code in its cache."""
    kind = BY_NAME[name]
    width, n_rows = 2 * max(256, kind.block_size), 2
    out = np.empty((n_rows, kind.row_bytes(width)), np.uint8)
    kernel_for(kind).encode(np.zeros((n_rows, 2 * width), np.uint8), F16, np.ones(width, np.float32), out)
    if _can_keep():
        _mark(name).touch()


def _can_keep() -> bool:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache_dir(), os.W_OK)


def _compile_apart(names: list[str], processes: int) -> None:
    """Compile each type in a process of its own, some at a time; an interrupt ends them. Of types that share a search
    one is compiled first, and the others find it in the cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache_dir())}
    waiting = list(names)
    running: dict[str, subprocess.Popen[bytes]] = {}
    known = {_search(name) for name in BY_NAME if _mark(name).exists()}

    def end() -> None:
        for process in running.values():
            process.kill()

    with when_cut_off(end):
        while waiting or running:
            for name in list(waiting):
                under_way = {_search(other) for other in running} - known
                if len(running) < processes and _search(name) not in under_way:
                    waiting.remove(name)
                    words, nothing = [sys.executable, "-c", _COMPILE.format(name)], subprocess.DEVNULL
                    running[name] = subprocess.Popen(
                        words, env=environment, stdin=nothing, stdout=nothing, stderr=nothing
                    )
            time.sleep(0.02)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    known.add(_search(name))


def _search(name: str) -> str:
    """Return a name for the part of a type's encoder that takes longest to compile."""
    return "lattice" if name.startswith(_LATTICE) else name


def _mark(name: str) -> Path:
    """Return the file that exists once the type's encoder has been compiled from these sources by this numba."""
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    return cache_dir() / f"{name}.{sources_digest()}-{numba_version()}-{python}.compiled"
