"""The client of GGML's own day runs our files, and llama.cpp agrees with it on what we make of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, LlamaForCausalLM

from oracles.ggml_v3 import EPS, N_VOCAB, Client, ClientError
from oracles.llama import Llama
from oracles.make_ggml_v3_client import is_made, make
from quantmill.formats.ggml.reader import GGMLSettings, read_ggml
from quantmill.formats.ggml.writer import layout, untied
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.save import write_hf
from quantmill.quantize.decode import as_float
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipes import RECIPE_SETS

pytestmark = pytest.mark.slow
TEXT = (
    "The old lighthouse stood at the edge of the cliff, and every evening its keeper climbed the long stairs to light "
    "the lamp. He had done so for thirty years, in storms and in calm, and he knew every ship that passed."
)
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
        execute(make_plan(untied(read_gguf(f16)), level, PlanOptions(recipe_set="ggml-v3", layout=layout)), path)
        return path

    return quantized


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row."""
    found: NDArray[np.float32] = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def worst_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(cosines(a, b).min())


def old_logits(path: Path) -> NDArray[np.float32]:
    with Client(path, N_VOCAB, n_gqa=4, rms_norm_eps=EPS) as client:
        return client.logits(TOKENS)


@pytest.mark.parametrize("level", RECIPE_SETS["ggml-v3"])
def test_logits(ggml: Callable[[str], Path], tmp_path: Path, level: str) -> None:
    path = ggml(level)
    got = old_logits(path)
    model = read_ggml(path, GGMLSettings(eps=EPS, context=512))
    (tmp_path / "hf").mkdir()
    write_hf(as_float(model), tmp_path / "hf", dtype="F32")
    reference = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor([TOKENS])).logits[0].numpy()

    write_gguf(tmp_path / "tiny.gguf", model)
    with Llama(tmp_path / "tiny.gguf") as llama:
        today = llama.logits(TOKENS)
    assert worst_cosine(got, expected) >= 0.99999
    # today's llama.cpp runs quantized files with activations in 8 bits
    assert worst_cosine(got, today) >= (0.99999 if level in ("F32", "F16") else 0.999)


@pytest.mark.parametrize("level", RECIPE_SETS["ggml-v3"])
def test_smollm2(smollm2_f16: Path, smollm2_hf: Path, tmp_path: Path, level: str) -> None:
    """A real model, as a Llama with its own vocabulary; its rows of 576 are no super-blocks, 32-wide types step in."""
    tokens = AutoTokenizer.from_pretrained(smollm2_hf)(TEXT).input_ids
    path = tmp_path / f"smollm2.ggmlv3.{level}.bin"
    execute(make_plan(untied(read_gguf(smollm2_f16)), level, PlanOptions(recipe_set="ggml-v3", layout=layout)), path)
    with Client(path, 49152, n_gqa=3, rms_norm_eps=1e-5, rope_freq_base=100000) as client:
        got = client.logits(tokens)
    settings = GGMLSettings(eps=1e-5, rope_base=100000, context=2048, vocab_dir=smollm2_hf)
    with TemporaryDirectory(dir=tmp_path) as folder:  # half a gigabyte, which pytest would keep for three sessions
        write_hf(as_float(read_ggml(path, settings)), Path(folder), dtype="F32")
        reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    path.unlink()
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    assert worst_cosine(got, expected) >= 0.9999


def test_the_client_needs_to_be_told(ggml: Callable[[str], Path]) -> None:
    """Without n_gqa it refuses the file: nothing in it says how many heads share a key."""
    with pytest.raises(ClientError), Client(ggml("F16"), N_VOCAB, rms_norm_eps=EPS) as client:
        client.logits(TOKENS)
