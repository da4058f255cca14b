"""Giving back the memory of a mapped file once its rows are read.

Pages of a mapped file count as resident while they are mapped. A model is read once, front to back, so pages are
dropped behind the reader, and a 70 GB file is converted in the memory of a small one.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

_PAGE = mmap.PAGESIZE
_DROP = getattr(mmap, "MADV_DONTNEED", None)  # none on Windows


def release(view: Any) -> None:
    """Drop the pages under a read-only view of a mapped file; anything else is left alone.

    The contents stay in the system's page cache, and reading them again is only slower. Pages shared with
    neighbouring rows go too: harmless for the same reason. A writable map could lose changes and is not touched.
    """
    base = view
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if _DROP is None or not isinstance(base, mmap.mmap) or view.flags.writeable or not view.nbytes:
        return
    start = view.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    first = start // _PAGE * _PAGE
    base.madvise(_DROP, first, min(len(base), start + view.nbytes) - first)
