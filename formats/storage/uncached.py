"""Reads and writes that bypass the page cache, for models that do not fit into it.

Such a model would be gone from the cache before anything reads it again, and everything else with it. With O_DIRECT the
kernel reads into the caller's memory, without a copy in the cache, but does not read ahead. With RWF_DONTCACHE (Linux
6.14) what is written goes to the disk at once and leaves the cache. Where either is not possible, for whatever reason,
the caller reads and writes in the ordinary way, which reports what is wrong.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from functools import cache

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096  # offsets, lengths and memory addresses are multiples of it, which suits every disk
_ALIGNED = 8  # offsets at which arrays of any type are aligned; GGUF's and nearly all of safetensors' are
_LEAST = 1 << 18  # bytes; smaller reads gain more from the kernel's reading ahead
_DONTCACHE = 0x80  # source: include/uapi/linux/fs.h
_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # the kernel or the file system does not support such writes
_open: dict[int, int] = {}  # sizes of the files that are open in this process: the models it reads and writes


def past_cache() -> bool:
    """Whether the open files together do not fit into the page cache."""
    return sum(list(_open.values())) > _room()


class Uncached:
    """Reads and writes of one file that bypass the page cache. Thread-safe.

    Args:
        fd: the file, open for as long as this lives.
        size: its size in bytes, as far as it is known.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._direct: int | None = None
        self._reads = hasattr(os, "O_DIRECT")
        self._writes = sys.platform == "linux"
        self._lock = threading.Lock()
        self.resize(size)
        weakref.finalize(self, _open.pop, id(self))

    def resize(self, size: int) -> None:
        """Record that the file has another size now."""
        _open[id(self)] = size

    def read(self, start: int, n: int) -> NDArray[np.uint8] | None:
        """``n`` bytes at an offset, as uint8 [n]; None where the caller should read in the ordinary way."""
        if n < _LEAST or not self._reads or not past_cache():
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
            self._reads = False
            return None
        found = memory[start - first : wanted]
        return found.copy() if start % _ALIGNED else found

    def write(self, data: memoryview, offset: int) -> int | None:
        """Write at an offset what the system takes at once.

        Returns:
            The number of bytes written; None where the caller should write in the ordinary way.

        Raises:
            OSError: the disk failed, or is full.
        """
        if len(data) < _LEAST or not self._writes or not past_cache():
            return None
        try:
            return os.pwritev(self._fd, [data], offset, _DONTCACHE)
        except (OSError, NotImplementedError) as error:  # the latter: Python was built with a C library older than 2017
            if isinstance(error, OSError) and error.errno not in _UNKNOWN:
                raise
            self._writes = False
            return None

    def _descriptor(self) -> int:
        with self._lock:
            if self._direct is None:
                # The same file, whatever is under its name by now.
                fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
                weakref.finalize(self, os.close, fd)
                self._direct = fd
            return self._direct


@cache
def _room() -> int:
    """Bytes that the page cache can hold: three quarters of the memory; no limit where its size is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
