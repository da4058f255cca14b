"""Reads and writes past the page cache, for models that do not fit it.

Such a model would be gone from the cache before anybody reads it again, and all else with it. Past it (O_DIRECT) the
kernel looks for no memory to keep the bytes in, and copies nothing, but nobody reads ahead. What is written goes to the
disk at once and leaves the cache (RWF_DONTCACHE, since Linux 6.14). What these ways cannot do, for whatever reason, the
ordinary ones do, or say what is wrong.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from functools import cache

import numpy as np

from ..ir import Bytes

_BLOCK = 4096  # places, lengths and memory are multiples of it, as any disk wants them
_ALIGNED = 8  # places that give arrays of any numbers; GGUF's and nearly all of safetensors' are
_LEAST = 1 << 18  # bytes; smaller reads gain more by what the kernel reads ahead
_DONTCACHE = 0x80  # source: include/uapi/linux/fs.h
_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # the kernel or the file system knows no such writes
_open: dict[int, int] = {}  # bytes of each file that is open in this process: those of its models, old and new


def past_cache() -> bool:
    """Whether the files that are open do not fit the page cache together."""
    return sum(list(_open.values())) > _room()


class Uncached:
    """A file's way past the cache. Thread-safe.

    Args:
        fd: the file, open for as long as this lives.
        size: in bytes, as far as it is known.
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
        """The file has another size now."""
        _open[id(self)] = size

    def read(self, start: int, n: int) -> Bytes | None:
        """``n`` bytes at an offset, as uint8 [n]; None where the ordinary way is better, or the only one."""
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
        """Write at an offset what the system takes at once and give its bytes' number; None where the ordinary way is
        better, or the only one.

        Raises:
            OSError: the disk failed, or is full.
        """
        if len(data) < _LEAST or not self._writes or not past_cache():
            return None
        try:
            return os.pwritev(self._fd, [data], offset, _DONTCACHE)
        except (OSError, NotImplementedError) as error:  # the latter: Python was built with a C library of before 2017
            if isinstance(error, OSError) and error.errno not in _UNKNOWN:
                raise
            self._writes = False
            return None

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
    """Bytes that the page cache can keep beside everything else; any number, where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
