"""llama.cpp asked for the results of many tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oracles.llama import Llama, LlamaError
from oracles.proofs import Proof, ask


class Peer:
    """llama.cpp in one child for all models; a new one when a model made it abort."""

    def __init__(self) -> None:
        self.child: Llama | None = None

    def run(self, path: Path, proof: Proof) -> np.ndarray:
        try:
            if self.child is None:
                self.child = Llama(path, flash=proof.flash)
            else:
                self.child.open(path, flash=proof.flash)
            return ask(self.child, proof)
        except LlamaError:
            if self.child is not None:
                self.child.close()
            self.child = None
            raise

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
