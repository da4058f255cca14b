"""Where programs that tests compare with are installed: ``QUANTMILL_CLIENTS`` (default ~/.cache/quantmill-clients)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def client_path(name: str) -> Path:
    """Where a client is, or is to be: one folder a Python version."""
    root = Path(os.environ.get("QUANTMILL_CLIENTS", "~/.cache/quantmill-clients")).expanduser()
    return root / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is whole; half a client does not stay."""
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        yield half
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
