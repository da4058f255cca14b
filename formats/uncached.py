"""Reads past the page cache (Linux's O_DIRECT), for models that do not fit it.

Such a model would be gone from the cache before anybody reads it again, and all else with it. Past it the kernel looks
for no memory to keep the bytes in, and copies nothing. What this way cannot do, for whatever reason, the ordinary one
does, or says what is wrong.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import cache

import numpy as np

from .ir import Bytes

_BLOCK = 4096  # places, lengths and memory are multiples of it, as any disk wants them
_ALIGNED = 8  # places that give arrays of any numbers; GGUF's and nearly all of safetensors' are
_LEAST = 1 << 18  # bytes; smaller reads gain more by what the kernel reads ahead
_open: dict[int, int] = {}  # bytes of each file that is open in this process: those of its models


class Uncached:
    """A file's way past the cache. Thread-safe.

    Args:
        fd: the file, open for as long as this lives.
        size: in bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._direct: int | None = None
        self._works = hasattr(os, "O_DIRECT")
        self._lock = threading.Lock()
        _open[id(self)] = size
        weakref.finalize(self, _open.pop, id(self))

    def read(self, start: int, n: int) -> Bytes | None:
        """``n`` bytes at an offset, as uint8 [n]; None where the ordinary way is better, or the only one."""
        if n < _LEAST or start % _ALIGNED or not self._works or sum(list(_open.values())) <= _room():
            return None
        first = start // _BLOCK * _BLOCK
        wanted = start + n - first
        memory = np.empty(wanted + 2 * _BLOCK, np.uint8)
        memory = memory[-memory.ctypes.data % _BLOCK :][: -(-wanted // _BLOCK) * _BLOCK]
        done = 0
        try:
            fd = self._descriptor()
            while done < wanted:  # the system reads 2 GB at most in one go
                got = os.preadv(fd, [memory.data[done:]], first + done)
                if not got:
                    return None
                done += got
        except OSError:
            self._works = False
            return None
        return memory[start - first : wanted]

    def _descriptor(self) -> int:
        with self._lock:
            if self._direct is None:
                # The same file, whatever has its name by now.
                fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
                weakref.finalize(self, os.close, fd)
                self._direct = fd
            return self._direct


@cache
def _room() -> int:
    """Bytes that the page cache can keep beside everything else."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
