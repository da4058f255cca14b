"""Checkpoints with layers after the last, which predict further tokens: left out, as transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from oracles.archs.deepseek import PROOFS
from oracles.proofs import save_proof
from quantmill.formats.errors import UnmatchedTensor
from quantmill.formats.hf.load import read_hf


def test_layers_after_the_last_are_left_out(tmp_path: Path) -> None:
    proof = next(proof for proof in PROOFS if proof.arch == "deepseek3")
    save_proof(proof, tmp_path)
    names = [tensor.name for tensor in read_hf(tmp_path)]
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    norm = weights["model.layers.0.input_layernorm.weight"]
    further = {f"model.layers.3.{part}": norm.clone() for part in ("enorm.weight", "input_layernorm.weight")}
    save_file({**weights, **further}, path)
    assert [tensor.name for tensor in read_hf(tmp_path)] == names
    save_file({**weights, "model.layers.2.enorm.weight": norm.clone()}, path)  # the last layer itself
    with pytest.raises(UnmatchedTensor, match=r"model\.layers\.2\.enorm\.weight"):
        read_hf(tmp_path)
