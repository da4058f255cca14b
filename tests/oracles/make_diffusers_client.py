"""Make the environment of the client of image models: diffusers, beside this environment's torch (half a minute).

python tests/oracles/make_diffusers_client.py

It goes to ``QUANTMILL_CLIENTS`` (default ~/.cache/quantmill-clients), a folder for CI to cache. Nothing is installed
into the running environment, whose torch, accelerate, gguf and safetensors it uses.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles.clients import client_path, whole_folder

PINNED = "diffusers==0.42.1"
WITH = ("importlib_metadata==10.2.0", "zipp==4.1.2")


def client_folder() -> Path:
    return client_path(PINNED.replace("==", "-"))


def is_made() -> bool:
    return (client_folder() / "diffusers").is_dir()


def make() -> Path:
    """Install the client unless it is there. Raises ``CalledProcessError``."""
    if not is_made():
        with whole_folder(client_folder()) as half:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(half)]
            subprocess.run([*pip, PINNED, *WITH], check=True)
    return client_folder()


if __name__ == "__main__":
    print(make())
