"""SmolLM2 with the golden figures llama.cpp gave for it, and a tiny random Llama with a tokenizer of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.gguf.reader import read_gguf
from quantmill.imatrix.corpus import Corpus, cut
from quantmill.imatrix.weights import Weights

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def llama_figures() -> dict[str, Any]:
    """Figures of llama-imatrix and llama-perplexity; the file says how they were made."""
    return dict(json.loads((GOLDENS / "llama.json").read_text()))


@pytest.fixture(scope="session")
def llama_sums() -> dict[str, Any]:
    """llama-imatrix's sums for the first 2 and 20 chunks, and the chunks' tokens."""
    with np.load(GOLDENS / "smollm2-topics.npz") as data:
        return dict(data)


@pytest.fixture(scope="session")
def topics(llama_sums: dict[str, Any]) -> Corpus:
    """The goldens' 20 chunks of 512 tokens; SmolLM2 wants no BOS."""
    return cut(llama_sums["tokens"].reshape(-1), 512, name="topics.txt")


@pytest.fixture(scope="session")
def smollm2(smollm2_f16: Path) -> Weights:
    return Weights(read_gguf(smollm2_f16))
