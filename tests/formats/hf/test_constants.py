"""Vectors of one value that are written beside a tensor, and what reading them back makes sure of."""

from __future__ import annotations

import numpy as np
import pytest

from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.tables.constants import Before, Filled
from quantmill.formats.hf.tables.dimensions import Dim

_OP = Before((Filled("scale", Dim("width")), Filled(1.0, Dim("width"))))
_CONFIG = {"scale": 3.87, "width": 3}


def test_vectors_of_one_value_come_first() -> None:
    matrix = tensor_from_array("m", np.arange(6, dtype=np.float32).reshape(2, 3))
    first, second, same = _OP.apply((matrix,), _CONFIG)
    assert same is matrix
    assert np.array_equal(first.rows(0, 1).view(np.float32)[0], np.full(3, 3.87, np.float32))
    assert np.array_equal(second.rows(0, 1).view(np.float32)[0], np.ones(3, np.float32))
    assert _OP.inverse.inverse == _OP
    (back,) = _OP.inverse.apply((first, second, matrix), _CONFIG)
    assert np.array_equal(back.rows(0, 2), matrix.rows(0, 2))


def test_another_value_than_the_config_s_is_no_way_back() -> None:
    matrix = tensor_from_array("m", np.zeros((2, 3), np.float32))
    made = _OP.apply((matrix,), _CONFIG | {"scale": 2.0})
    (back,) = _OP.inverse.apply(made, _CONFIG)
    with pytest.raises(FormatError, match=r"is not scale 3.87 in each place, as config.json says"):
        back.rows(0, 2)
