"""Diffusers, as a user of our files has it: tiny models of its classes, and what it makes of a GGUF file.

    client = Diffusers(folder)
    outputs = client.run([{"make": "flux", "folder": "flux"}])

``make_diffusers_client.py`` installs it, once. A run takes some ten seconds to start: give it many jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oracles.make_diffusers_client import client_folder

CHILD = Path(__file__).with_name("diffusers_child.py")
# What the child has a tiny model of, by quantmill's names of layouts.
ARCHS = (
    "flux", "chroma", "flux2", "sd3", "wan", "qwen_image", "z_image", "lumina2", "hyvid", "ltxv", "aura", "cosmos",
)  # fmt: skip


@dataclass(frozen=True)
class Diffusers:
    """The client; its runs are in ``folder``, where relative paths of jobs begin."""

    folder: Path

    def run(self, jobs: Sequence[Mapping[str, object]]) -> list[NDArray[np.float32]]:
        """The output of each job of ``diffusers_child.py``. Raises ``AssertionError`` with its last words."""
        (self.folder / "jobs.json").write_text(json.dumps(list(jobs)))
        self._python(CHILD.read_text(), "jobs.json", ".")
        return [np.load(self.folder / f"{number}.npy") for number in range(len(jobs))]

    def decoded_types(self) -> list[str]:
        """The names of the types that diffusers decodes, besides F32 and F16."""
        from_table = "from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES as types"
        return self._python(f"{from_table}; print(*(one.name for one in types))").split()

    def _python(self, *words: str) -> str:
        """Run a program with `-c`: as a file it would find its folder's modules beside it."""
        env = {**os.environ, "PYTHONPATH": str(client_folder()), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", *words]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
