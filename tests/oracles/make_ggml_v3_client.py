"""Make the environment of GGML v3's client: llama-cpp-python 0.1.78, the last release before GGUF, built here (30 s).

python tests/oracles/make_ggml_v3_client.py

It goes to ``QUANTMILL_CLIENTS`` (default ~/.cache/quantmill-clients), a folder for CI to cache. Nothing is installed
into the running environment, whose Python and numpy the client uses.

It is built with OpenBLAS, which takes texts of 32 tokens or more: weights are decoded to float32 and nothing else is
rounded. Without it activations are rounded to 8 bits, and where some are huge, as SmolLM2's, that alone moves logits by
more than a wrong scale would (a cosine of 0.992).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles.clients import client_path, whole_folder

PINNED = "llama-cpp-python==0.1.78"
BLAS = "scipy-openblas32==0.3.34.481.3"
WITH = (BLAS, "diskcache==5.6.3", "typing_extensions==4.16.0")


def client_folder() -> Path:
    """Where the client is, or is to be: its library is built for one Python version."""
    return client_path(f"{PINNED.replace('==', '-')}-openblas")


def is_made() -> bool:
    return (client_folder() / "llama_cpp").is_dir()


def make() -> Path:
    """Build the client unless it is there. Raises ``CalledProcessError``; half a client does not stay."""
    folder = client_folder()
    if is_made():
        return folder
    with whole_folder(folder) as half:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(half)]
        subprocess.run([*pip, *WITH], check=True)
        words = [*pip, "--no-cache-dir", "--no-binary", "llama-cpp-python", PINNED]
        subprocess.run(words, check=True, env={**os.environ, **_flags(half, folder)})
    return folder


def _flags(here: Path, later: Path) -> dict[str, str]:
    """For the compiler: OpenBLAS in a folder that is going to be renamed. SciPy's names its functions with a prefix."""
    return {
        "FORCE_CMAKE": "1",
        "CFLAGS": f"-DGGML_USE_OPENBLAS -Dcblas_sgemm=scipy_cblas_sgemm -I{here}/scipy_openblas32/include",
        "LDFLAGS": f"-L{here}/scipy_openblas32/lib -Wl,--no-as-needed -lscipy_openblas "
        f"-Wl,-rpath,{later}/scipy_openblas32/lib",
    }


if __name__ == "__main__":
    print(make())
