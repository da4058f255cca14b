"""Q1_0 and Q2_0 against blocks worked by hand and against llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.ggml import ggml_quantize
from oracles.kernel_checks import check_decode, check_encode, check_ragged, encode

TYPES = ("Q1_0", "Q2_0")


def test_q1_0_block_by_hand():
    rows = np.full((1, 128), -1.5, np.float32)
    rows[0, [0, 9, 127]] = 1.5  # bit 0 of byte 0, bit 1 of byte 1, bit 7 of byte 15
    expected = bytes([1, 2] + [0] * 13 + [128])
    assert encode("Q1_0", rows).tobytes() == np.float16(1.5).tobytes() + expected


def test_q1_0_counts_both_zeros_as_positive():
    rows = np.zeros((1, 128), np.float32)
    rows[0, ::2] = -0.0
    assert encode("Q1_0", rows).tobytes() == bytes(2) + b"\xff" * 16


def test_q2_0_block_by_hand():
    # Levels -1, 0, 1 are stored plus 1, the first weight lowest; half the scale rounds away from zero.
    rows = np.zeros((1, 64), np.float32)
    rows[0, :4] = [3, -3, 1.5, -1.4]
    expected = bytes([0b01_10_00_10] + [0b01_01_01_01] * 15)
    assert encode("Q2_0", rows).tobytes() == np.float16(3).tobytes() + expected


def test_q2_0_infinite_inverse_scale():
    rows = np.full((1, 64), 2.0**-129, np.float32)
    rows[0, ::3] = 0
    assert encode("Q2_0", rows).tobytes() == bytes(18)
    assert np.array_equal(encode("Q2_0", rows), ggml_quantize("Q2_0", rows))


@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_llama_cpps(name: str):
    check_encode(name, 512)
    check_ragged(name)


@pytest.mark.parametrize("name", TYPES)
def test_floats_are_llama_cpps(name: str):
    check_decode(name)
