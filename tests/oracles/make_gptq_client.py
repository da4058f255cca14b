"""Make the environment of the client of GPTQ, AWQ and compressed-tensors: GPTQModel and compressed-tensors under
transformers, with a numpy of its own (a minute or two).

python tests/oracles/make_gptq_client.py

It goes to ``QUANTMILL_CLIENTS`` (default ~/.cache/quantmill-clients), a folder for CI to cache. Nothing is installed
into the running environment; scripts run in the client's own Python (``python_of_client``).
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles.clients import client_path, whole_folder

PINNED = ("torch==2.13.0", "transformers==5.23.0", "gptqmodel==7.6.0", "optimum==2.3.0", "compressed-tensors==0.20.1")


def client_folder() -> Path:
    """Where the client is, or is to be."""
    return client_path("-".join(PINNED[number].replace("==", "-") for number in (2, 4)))


def python_of_client() -> Path:
    return client_folder() / "bin" / "python"


def is_made() -> bool:
    return python_of_client().exists()


def make() -> Path:
    """Install the client unless it is there. Raises ``CalledProcessError``; half a client does not stay."""
    folder = client_folder()
    if is_made():
        return folder
    with whole_folder(folder) as half:  # its scripts would not run from there, but its python does: all that we call
        venv.create(half, with_pip=True)
        subprocess.run([str(half / "bin" / "python"), "-m", "pip", "install", "-q", *PINNED], check=True)
    return folder


if __name__ == "__main__":
    print(make())
