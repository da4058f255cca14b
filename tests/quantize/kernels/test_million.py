"""A million rows of mixed statistics, spread over all types: our bytes are llama.cpp's."""

from __future__ import annotations

import pytest

from oracles.kernel_checks import check_many
from quantmill.quantize.kernels import ENCODABLE

EACH = 1_000_000 // len(ENCODABLE) + 1  # of 256 weights; most of the time is the C's


@pytest.mark.slow
@pytest.mark.parametrize("type_name", sorted(ENCODABLE))
def test_bytes_are_llama_cpps(type_name: str) -> None:
    check_many(type_name, EACH)
