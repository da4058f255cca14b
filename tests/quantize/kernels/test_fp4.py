"""MXFP4 and NVFP4 against blocks worked by hand and against llama.cpp, and their scales at every edge."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.ggml import ggml_quantize
from oracles.kernel_checks import check_decode, check_encode, check_ragged, encode
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.kernels import kernel_for
from quantmill.quantize.kernels.fp4_scales import UE4M3_HALVES

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


def decoded(name: str, blocks: np.ndarray, width: int) -> np.ndarray:
    out = np.empty((len(blocks), width), np.float32)
    kernel_for(BY_NAME[name]).decode(blocks, out)
    return out


def test_search_by_hand():
    """With the largest, 6, at 6 the seven fives lose 1 each; under 1.625 (0x3D) they are 3 * 1.625, and 6 is 4 * 1.625.
    Where 6 alone is important it keeps llama.cpp's scale, 1 (0x38)."""
    rows = np.zeros((1, 64), np.float32)
    rows[0, :8] = [6, 5, 5, 5, 5, 5, 5, 5]
    assert encode("NVFP4", rows)[0, 0] == 0x38
    assert encode("NVFP4", rows, np.ones(64, np.float32))[0, 0] == 0x3D
    six = np.full(64, 1e-6, np.float32)
    six[0] = 1
    assert decoded("NVFP4", encode("NVFP4", rows, six), 64)[0, 0] == 6


@pytest.mark.parametrize("name", TYPES)
def test_the_search_finds_the_best_of_its_candidates(name: str):
    """Against numpy in float64 over the same candidates; and never worse than llama.cpp's scale."""
    qtype, rng = BY_NAME[name], np.random.default_rng(11)
    size = 16 if name == "NVFP4" else 32
    rows = (rng.standard_normal((60, 128)) * np.exp(2 * rng.standard_normal((60, 1)))).astype(np.float32)
    weights = np.exp(rng.standard_normal(128)).astype(np.float32)

    def error(blocks: np.ndarray) -> np.ndarray:
        squares = weights * np.square(decoded(name, blocks, 128).astype(np.float64) - rows)
        return squares.reshape(60, -1, size).sum(2)

    plain, searched = error(encode(name, rows)), error(encode(name, rows, weights))
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() < plain.sum() * 0.995
    below, above = (-3, 6) if name == "NVFP4" else (-1, 1)
    scales = encode(name, rows).view(qtype.block).reshape(60, -1)
    codes = scales["d" if name == "NVFP4" else "e"].reshape(60, -1).astype(int)
    x = np.abs(rows).reshape(60, -1, size, 1).astype(np.float64)
    best = np.full(codes.shape, np.inf)
    for step in range(below, above + 1):
        code = codes + step
        scale = np.exp2(code - 127.0) if name == "MXFP4" else 2.0 * UE4M3_HALVES[np.clip(code, 1, 0x7E)]
        nearest = np.abs(x - scale[:, :, None, None] * E2M1).min(3)
        best = np.minimum(best, (np.square(nearest) * weights.reshape(1, -1, size)).sum(2))
    assert np.allclose(searched, best, rtol=1e-5)
