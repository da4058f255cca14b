"""The layouts in which the same weights are found: as transformers saves a model, as it has it in memory, respelled."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

from oracles.converter_folders import published_tensors
from oracles.proofs import all_proofs, save_proof
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.ir import Model

CASES = ("cohere2moe", "granite_swa-experts", "laguna", "mellum", "mimo2", "step35")


def same(one: Model, other: Model) -> None:
    theirs = {tensor.name: tensor for tensor in other}
    assert {tensor.name for tensor in one} == theirs.keys()
    for tensor in one:
        found = theirs[tensor.name]
        assert (tensor.shape, tensor.qtype) == (found.shape, found.qtype)
        assert np.array_equal(tensor.rows(0, tensor.n_rows), found.rows(0, found.n_rows)), tensor.name
    ours, theirs_too = (
        {key: value for key, value in model.metadata.items() if not key.startswith(("general.", "quantmill."))}
        for model in (one, other)
    )
    assert str(ours) == str(theirs_too)


@pytest.mark.parametrize("case", CASES)
def test_every_layout_becomes_the_same_file(case: str, tmp_path: Path) -> None:
    proof = next(proof for proof in all_proofs() if proof.id == case)
    save_proof(proof, tmp_path / "saved")
    save_proof(replace(proof, as_loaded=True), tmp_path / "loaded")
    saved = read_hf(tmp_path / "saved")
    same(saved, read_hf(tmp_path / "loaded"))
    path = tmp_path / "saved" / "model.safetensors"
    weights = load_file(path)
    for theirs, ours in BY_CLASS[proof.model].spellings.items():
        assert any(ours in name or theirs in name for name in weights)
        weights = {name.replace(ours, theirs): weight for name, weight in weights.items()}
    save_file(weights, path, {"format": "pt"})
    same(read_hf(tmp_path / "saved"), read_hf(tmp_path / "loaded"))


def test_hy4_as_published_becomes_the_same_file(tmp_path: Path) -> None:
    """transformers saves some of its tensors under names that it does not publish; it reads both."""
    proof = next(proof for proof in all_proofs() if proof.id == "hy_v4")
    save_proof(proof, tmp_path)
    saved, path = read_hf(tmp_path), tmp_path / "model.safetensors"
    weights = published_tensors(proof, load_numpy(path))
    assert "model.layers.0.hc_attn_layer.hc_pre.hc_fn" in weights
    assert "model.layers.1.mlp.shared_experts.gate_proj.weight" in weights
    (tmp_path / "published").mkdir()
    save_numpy(weights, tmp_path / "published" / "model.safetensors", {"format": "pt"})
    shutil.copy(tmp_path / "config.json", tmp_path / "published")
    same(saved, read_hf(tmp_path / "published"))
    write_gguf(tmp_path / "model.gguf", read_hf(tmp_path / "published"))
    write_hf(read_gguf(tmp_path / "model.gguf"), tmp_path / "back")
    back = load_numpy(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weight) for name, weight in weights.items())
