"""The folder that keeps compiled code between runs. This module does not import numba."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import os
import re
import stat
import tempfile
from functools import cache
from pathlib import Path


@cache
def sources_digest() -> str:
    """Return a digest of the sources of all kernels and of refining: numba itself checks only the file that a function
    is in, not the files of the functions that it calls."""
    digest, here = hashlib.sha256(), Path(__file__).parent
    for source in sorted([*here.glob("*.py"), *here.with_name("refine").glob("*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def numba_version() -> str | None:
    """Return the version of the numba that an import would find, None without one. It is read from numba's own file,
    because ``importlib.metadata`` takes long to import."""
    numba = importlib.util.find_spec("numba")  # finds, does not import
    if numba is None or numba.origin is None:
        return None
    try:
        found = re.search(r'"version": "([^"]+)"', Path(numba.origin).with_name("_version.py").read_text())
    except OSError:
        return None
    return found[1] if found else None


@cache
def cache_dir() -> Path:
    """Return ``NUMBA_CACHE_DIR`` if it is set, else a folder in the user's cache whose name has the digest of our
    sources, or one in the temporary directory where the home is read-only.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"])
    name = f"kernels-{sources_digest()}"
    home = os.environ.get("QUANTMILL_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(home) / "quantmill" / name
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return _private_temporary() / name


def _private_temporary() -> Path:
    """Return a temporary folder that only this user can write to, because its files are run as machine code."""
    path = Path(tempfile.gettempdir()) / f"quantmill-{getpass.getuser()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        about = path.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="quantmill-"))  # somebody else's: compile for this run alone
