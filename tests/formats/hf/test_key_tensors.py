"""Parameters of a checkpoint that GGUF keeps in the metadata: Apertus's activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import UnmatchedTensor
from quantmill.formats.gguf.keys import typed
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.shapes import read_shapes

ALPHA = "model.layers.1.mlp.act_fn.alpha_n"
KEYS = {"xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("apertus") / "hf"
    save_proof(next(proof for proof in all_proofs() if proof.id == "apertus"), path)
    return path


def test_numbers_of_all_layers_are_keys_and_no_tensors(folder: Path) -> None:
    model, weights = read_hf(folder), load_file(folder / "model.safetensors")
    assert not any("act_fn" in tensor.name for tensor in model)
    for key in KEYS:
        name = key.partition(".")[2]
        numbers = [float(weights[f"model.layers.{layer}.mlp.act_fn.{name}"]) for layer in range(3)]
        np.testing.assert_array_equal(model.metadata[key].items, np.float32(numbers))
    shapes = read_shapes(folder / "config.json")
    assert {key: len(shapes.metadata[key].items) for key in KEYS} == dict.fromkeys(KEYS, 3)


def test_they_come_back_in_their_own_type(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    mixed = {name: weight.to(torch.bfloat16) if "act_fn" in name else weight for name, weight in weights.items()}
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(mixed, tmp_path / "mixed" / "model.safetensors", {"format": "pt"})
    write_hf(read_hf(tmp_path / "mixed"), tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == mixed.keys()
    for name, weight in mixed.items():
        assert back[name].dtype == weight.dtype, name
        assert torch.equal(back[name], weight), name


def test_a_number_too_few_is_an_error(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[ALPHA]
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnmatchedTensor, match=f"missing {ALPHA}"):
        read_hf(tmp_path / "hf")
    model = read_hf(folder)
    for wrong in ([0.5, 0.5], [1, 2, 3]):
        changed = replace(model, metadata={**model.metadata, "xielu.beta": typed("unknown", wrong)})
        with pytest.raises(UnmatchedTensor, match=r"missing xielu\.beta"):
            write_hf(changed, tmp_path / "back")


def test_they_come_back_from_a_file_of_others(folder: Path, tmp_path: Path) -> None:
    model = read_hf(folder)
    plain = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=plain), tmp_path / "back")
    back, weights = (load_file(path / "model.safetensors") for path in (tmp_path / "back", folder))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())
