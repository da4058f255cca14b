"""The layouts in which the same weights are found: as transformers saves a model, and as it has it in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.hf.load import read_hf

CASES = ("laguna", "mellum", "mimo2")


@pytest.mark.parametrize("case", CASES)
def test_both_layouts_become_the_same_file(case: str, tmp_path: Path) -> None:
    proof = next(proof for proof in all_proofs() if proof.id == case)
    models = []
    for as_loaded in (False, True):
        folder = tmp_path / str(as_loaded)
        save_proof(replace(proof, as_loaded=as_loaded), folder)
        models.append(read_hf(folder))
    saved, loaded = models
    tensors = {tensor.name: tensor for tensor in loaded}
    assert {tensor.name for tensor in saved} == tensors.keys()
    for tensor in saved:
        other = tensors[tensor.name]
        assert (tensor.shape, tensor.qtype) == (other.shape, other.qtype)
        assert np.array_equal(tensor.rows(0, tensor.n_rows), other.rows(0, other.n_rows)), tensor.name
    keys = [
        {key: value for key, value in model.metadata.items() if not key.startswith(("general.", "quantmill."))}
        for model in models
    ]
    assert str(keys[0]) == str(keys[1])
