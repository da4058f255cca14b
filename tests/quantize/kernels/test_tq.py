"""TQ1_0 and TQ2_0 against blocks worked by hand and against llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.ggml import ggml_quantize
from oracles.kernel_checks import check_decode, check_encode, check_ragged, encode
from quantmill.formats.qtypes import BY_NAME

TYPES = ("TQ1_0", "TQ2_0")


def test_tq2_0_block_by_hand():
    rows = np.zeros((1, 256), np.float32)
    rows[0, 0] = 4  # level 2 in bits 0-1 of byte 0
    rows[0, 32] = -4  # level 0 in bits 2-3
    rows[0, 64] = 2  # half the scale rounds away from zero: level 2 in bits 4-5
    rows[0, 96] = -1.9  # less than half: level 1 in bits 6-7
    rows[0, 128 + 33] = -2  # second half, byte 33, bits 2-3: level 0
    qs = [0b01010101] * 64
    qs[0] = 0b01100010
    qs[33] = 0b01010001
    assert encode("TQ2_0", rows).tobytes() == bytes(qs) + np.float16(4).tobytes()


def test_tq1_0_block_by_hand():
    rows = np.zeros((1, 256), np.float32)
    rows[0, 0] = 4
    # Byte m of the first 32 holds weights m, m+32, ... m+128, the first most significant; all zeros: 11111 in base 3.
    zeros = -(-121 * 256 // 243)
    first = -(-(121 + 81) * 256 // 243)
    last = -(-120 * 256 // 243)  # four weights and an empty fifth place: 11110
    expected = [first] + [zeros] * 47 + [last] * 4
    assert encode("TQ1_0", rows).tobytes() == bytes(expected) + np.float16(4).tobytes()


def test_ternary_weights_survive():
    from quantmill.quantize.kernels import kernel_for

    rows = (np.random.default_rng(3).integers(-1, 2, (5, 512)) * 0.75).astype(np.float32)
    for name in TYPES:
        back = np.empty_like(rows)
        kernel_for(BY_NAME[name]).decode(encode(name, rows), back)
        assert np.array_equal(back, rows)


@pytest.mark.parametrize("name", TYPES)
def test_infinite_inverse_scales_make_zeros(name: str):
    rows = np.full((1, 256), 2.0**-129, np.float32)
    rows[0, ::2] = 0
    assert np.array_equal(encode(name, rows), ggml_quantize(name, rows))


@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_llama_cpps(name: str):
    check_encode(name, 512)
    check_ragged(name)


@pytest.mark.parametrize("name", TYPES)
def test_floats_are_llama_cpps(name: str):
    check_decode(name)
