"""The client of GGML's own day runs our files, and llama.cpp agrees with it on what we make of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from oracles.ggml_v3 import EPS, N_VOCAB, Client, ClientError
from oracles.llama import Llama
from oracles.make_ggml_v3_client import is_made, make
from quantmill.formats.ggml.reader import Settings, read_ggml
from quantmill.formats.ggml.writer import layout, untied
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.save import write_hf
from quantmill.quantize.decode import as_float
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan
from quantmill.quantize.recipes import BOOKS

pytestmark = pytest.mark.slow
TOKENS = [1, *np.random.default_rng(5).integers(259, N_VOCAB, 60).tolist()]


@pytest.fixture(scope="session", autouse=True)
def client_is_made() -> None:
    """CI makes the client; a developer who has not is told how to."""
    if os.environ.get("CI"):
        make()
    elif not is_made():
        pytest.skip("GGML v3's client is not there: python tests/oracles/make_ggml_v3_client.py")


@pytest.fixture
def ggml(f16: Path, tmp_path: Path) -> Callable[[str], Path]:
    def quantized(level: str) -> Path:
        path = tmp_path / f"tiny.ggmlv3.{level}.bin"
        execute(make_plan(untied(read_gguf(f16)), level, book="ggml-v3", layout=layout), path)
        return path

    return quantized


def worst_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def old_logits(path: Path) -> NDArray[np.float32]:
    with Client(path, N_VOCAB, n_gqa=4, rms_norm_eps=EPS) as client:
        return client.logits(TOKENS)


@pytest.mark.parametrize("level", BOOKS["ggml-v3"])
def test_logits(ggml: Callable[[str], Path], tmp_path: Path, level: str) -> None:
    path = ggml(level)
    got = old_logits(path)
    model = read_ggml(path, Settings(eps=EPS, context=512))
    (tmp_path / "hf").mkdir()
    write_hf(as_float(model), tmp_path / "hf", dtype="F32")
    reference = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor([TOKENS])).logits[0].numpy()

    write_gguf(tmp_path / "tiny.gguf", model)
    with Llama(tmp_path / "tiny.gguf") as llama:
        today = llama.logits(TOKENS)
    # quantized files run with activations in 8 bits, which each client rounds in its own way: two errors in the second
    least, least_today = (0.99999, 0.99999) if level in ("F32", "F16") else (0.9995, 0.999)
    assert worst_cosine(got, expected) >= least
    assert worst_cosine(got, today) >= least_today


def test_the_client_needs_to_be_told(ggml: Callable[[str], Path]) -> None:
    """Without n_gqa it refuses the file: nothing in it says how many heads share a key."""
    with pytest.raises(ClientError), Client(ggml("F16"), N_VOCAB, rms_norm_eps=EPS) as client:
        client.logits(TOKENS)
