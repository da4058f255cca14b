"""Make the environment of GGML v3's client: llama-cpp-python 0.1.78, the last release before GGUF, built here (30 s).

python tests/oracles/make_ggml_v3_client.py

It goes to ``QUANTMILL_CLIENTS`` (default ~/.cache/quantmill-clients), a folder for CI to cache. Nothing is installed
into the running environment, whose Python and numpy the client uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PINNED = "llama-cpp-python==0.1.78"
WITH = ("diskcache==5.6.3", "typing_extensions==4.16.0")


def client_folder() -> Path:
    """Where the client is, or is to be: one folder a Python, for its library is built for it."""
    root = Path(os.environ.get("QUANTMILL_CLIENTS", "~/.cache/quantmill-clients")).expanduser()
    return root / f"{PINNED.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"


def is_made() -> bool:
    return (client_folder() / "llama_cpp").is_dir()


def make() -> Path:
    """Build the client unless it is there. Raises ``CalledProcessError``; half a client does not stay."""
    folder = client_folder()
    if is_made():
        return folder
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(half)]
    try:
        subprocess.run([*pip, *WITH], check=True)
        subprocess.run([*pip, "--no-binary", "llama-cpp-python", PINNED], check=True)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


if __name__ == "__main__":
    print(make())
