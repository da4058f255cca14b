"""A small model with every kind of value and every type of tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oracles.gguf_samples import METADATA, every_type
from quantmill.formats.ir import Model


@pytest.fixture
def model() -> Model:
    return Model("llama", METADATA, every_type(), Path("in memory"))


@pytest.fixture
def equal() -> Callable[[Model, Model], None]:
    """Check that two models hold the same keys, in order, and the same tensors."""

    def check(a: Model, b: Model) -> None:
        assert list(a.metadata) == list(b.metadata)
        for key, value in a.metadata.items():
            other = b.metadata[key]
            assert (value.type, value.item) == (other.type, other.item), key
            if isinstance(value.data, np.ndarray):
                assert value.data.dtype == other.data.dtype, key
                np.testing.assert_array_equal(value.data, other.data)
            else:
                assert value.data == other.data, key
        described = [[(t.name, t.role, t.layer, t.shape, t.qtype) for t in m.tensors] for m in (a, b)]
        assert described[0] == described[1]
        for x, y in zip(a.tensors, b.tensors, strict=True):
            np.testing.assert_array_equal(x.rows(0, x.n_rows), y.rows(0, y.n_rows), err_msg=x.name)

    return check
