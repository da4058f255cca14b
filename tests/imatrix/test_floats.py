"""Weights in bfloat16 are those of float32, rounded by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import QuantmillError
from quantmill.formats.ir import Role, Tensor
from quantmill.formats.qtypes import BF16, qtype
from quantmill.imatrix.floats import read_bf16, read_floats


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounded_piece_by_piece(dtype: type) -> None:
    """In the cache's size: 700 rows of 512 are two pieces, the last shorter; infinities and ties among them."""
    values = np.random.default_rng(0).standard_normal((700, 512)).astype(dtype)
    values[0, :4] = [np.inf, -0.0, 1.00390625, 1.01171875]
    tensor = tensor_from_array("x", values)
    expected = torch.from_numpy(read_floats(tensor)).bfloat16().view(torch.int16).numpy()
    assert np.array_equal(read_bf16(tensor).view(np.int16), expected)


def test_bits_are_taken_as_they_are() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 16, (3, 2, 256), dtype=np.uint16)
    rows = bits.reshape(6, 256).view(np.uint8)
    tensor = Tensor("x", Role.FFN_UP_EXPS, 0, (3, 2, 256), BF16, lambda a, b: rows[a:b])
    assert np.array_equal(read_bf16(tensor), bits)


def test_only_floats() -> None:
    blocks = np.zeros((1, 144), np.uint8)
    with pytest.raises(QuantmillError, match="is of type Q4_K, not a float"):
        read_bf16(Tensor("x", Role.FFN_UP, 0, (1, 256), qtype("Q4_K"), lambda a, b: blocks[a:b]))
