"""Gemma 3n's own words: shares as quantiles, rows of zeros for tokens without an input of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.json_samples import archs
from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.hf.tables.dimensions import Dim
from quantmill.formats.hf.tables.padding import PadRows
from quantmill.formats.hf.tables.sparsity import quantile, share_of


def test_quantiles_are_those_of_torch_and_come_back() -> None:
    for share in (0.0, 0.5, 0.7, 0.9, 0.95, 0.975):
        wanted = torch.distributions.normal.Normal(0, 1).icdf(torch.tensor(share, dtype=torch.float32)).item()
        assert quantile(share) == wanted
        assert share_of(wanted) == share


def test_rows_of_zeros_there_and_back() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    op = PadRows(Dim(3), Dim(5))
    (padded,) = op.apply((tensor_from_array("x", values),), {})
    assert padded.shape == (5, 2)
    assert np.array_equal(padded.rows(0, 5).view("<f4"), np.pad(values, ((0, 2), (0, 0))))
    assert np.array_equal(padded.rows(2, 4).view("<f4"), [[4, 5], [0, 0]])
    (back,) = op.inverse.apply((padded,), {})
    assert back.shape == (3, 2)
    assert np.array_equal(back.rows(0, 3).view("<f4"), values)


@pytest.mark.parametrize("wrong", [True, 0.5, [0.5], [0.5, 1.5], [0.5, "0"]], ids=str)
def test_shares_that_are_no_list_for_the_layers_are_refused(wrong: object, tmp_path: Path) -> None:
    sample = next(sample for sample in archs() if sample.name == "gemma3n")
    config = {**sample.files["config.json"], "activation_sparsity_pattern": wrong}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"config.json: activation_sparsity_pattern: "):
        read_shapes(tmp_path / "config.json")
