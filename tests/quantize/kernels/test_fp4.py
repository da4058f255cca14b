"""MXFP4 and NVFP4 against blocks worked by hand and against llama.cpp, and their scales at every edge."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.ggml import ggml_quantize
from oracles.kernel_checks import check_decode, check_encode, check_ragged, encode
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.kernels import kernel_for

TYPES = ("MXFP4", "NVFP4")
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def test_mxfp4_block_by_hand():
    # The largest is 6, log2 2.58, so e = 2 - 2 + 127 and one unit is 1: E2M1 values are kept as they are.
    rows = np.concatenate([E2M1, -E2M1, E2M1, E2M1])[None]
    expected = [127] + [j | j << 4 for j in range(8)] + [(j + 8 if j else 0) | j << 4 for j in range(8)]
    assert encode("MXFP4", rows).tobytes() == bytes(expected)


def test_nvfp4_block_by_hand():
    # The largest of each 16 is 6, 12, 0, 6/512: scales 1 (0x38), 2 (0x40), none, and the least subnormal (1).
    rows = np.concatenate([E2M1, -E2M1, 2 * E2M1, 2 * E2M1, np.zeros(16), E2M1 / 512, -E2M1 / 512])[None]
    codes = [j | (j + 8 if j else 0) << 4 for j in range(8)]
    expected = [0x38, 0x40, 0, 1, *codes, *[j | j << 4 for j in range(8)], *[0] * 8, *codes]
    assert encode("NVFP4", rows.astype(np.float32)).tobytes() == bytes(expected)


def test_ties_take_the_smaller_magnitude():
    ties = (E2M1[1:] + E2M1[:-1]) / 2
    rows = np.full((1, 32), 6, np.float32)
    rows[0, :7], rows[0, 7:14] = ties, -ties
    back = np.empty_like(rows)
    kernel_for(BY_NAME["MXFP4"]).decode(encode("MXFP4", rows), back)
    assert np.array_equal(back[0, :14], np.concatenate([E2M1[:-1], -E2M1[:-1]]))


def test_mxfp4_exponent_around_every_power_of_two():
    # Just below a power of two log2f rounds up to it; where exactly depends on the exponent.
    bits = np.concatenate([(1 << np.arange(23)), np.arange(1, 256) << 23])[:, None] + np.arange(-50, 3)
    largest = bits[(bits > 0) & (bits < 0x7F800000)].astype(np.uint32).view(np.float32)
    rows = np.zeros((len(largest), 32), np.float32)
    rows[:, 5], rows[:, 20] = -largest, largest / 3
    assert np.array_equal(encode("MXFP4", rows), ggml_quantize("MXFP4", rows))


def test_nvfp4_scale_at_every_step():
    # Every float near the rounding points of UE4M3, from below the least subnormal to beyond the largest.
    edges = np.concatenate([np.arange(0, 8.5, 0.5) / 512, np.exp2(np.arange(-7, 10))[:, None].repeat(17, 1).ravel()])
    edges[17:] *= np.tile(np.arange(16, 33) / 16, 17)
    near = np.array([0, 1e-7, -1e-7, 3e-7, -3e-7, 1e-3, -1e-3])
    largest = (6 * edges[:, None] * (1 + near)).ravel().astype(np.float32)
    rows = np.random.default_rng(5).uniform(-1, 1, (len(largest), 64)).astype(np.float32) * largest[:, None]
    rows[:, ::16] = largest[:, None]
    assert np.array_equal(encode("NVFP4", rows), ggml_quantize("NVFP4", rows))


def test_weights_far_beyond_the_largest_scale():
    # Past 2**24 times the scale all errors round alike, and the first value, 0, wins.
    rows = np.random.default_rng(6).standard_normal((40, 64)) * 10.0 ** np.linspace(0, 36, 40)[:, None]
    assert np.array_equal(encode("NVFP4", rows.astype(np.float32)), ggml_quantize("NVFP4", rows.astype(np.float32)))


@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_llama_cpps(name: str):
    check_encode(name, 512)
    check_ragged(name)


@pytest.mark.parametrize("name", TYPES)
def test_floats_are_llama_cpps(name: str):
    check_decode(name)


def test_every_scale_byte_decodes():
    for name, columns in (("MXFP4", 1), ("NVFP4", 4)):
        from oracles.ggml import ggml_dequantize

        qtype = BY_NAME[name]
        blocks = np.random.default_rng(8).integers(0, 256, (256, qtype.block_bytes), dtype=np.uint8)
        blocks[:, :columns] = np.arange(256)[:, None]
        ours = np.empty((256, qtype.block_size), np.float32)
        kernel_for(qtype).decode(blocks, ours)
        theirs = ggml_dequantize(name, blocks, qtype.block_size)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
