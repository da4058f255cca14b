"""IQ4_NL and IQ4_XS against a block worked by hand and against llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.ggml import ggml_quantize
from oracles.kernel_checks import check_decode, check_encode, check_ragged, encode
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.kernels import kernel_for

TYPES = ("IQ4_NL", "IQ4_XS")
VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def test_a_block_of_codebook_values_by_hand():
    # Weights that are the codebook itself, times 2: every index is found and the fitted scale is 2.
    # Byte j holds weight j low and weight j + 16 high; the second half is the codebook backwards.
    rows = 2 * np.concatenate([VALUES, VALUES[::-1]])[None]
    expected = np.float16(2).tobytes() + bytes(j | (15 - j) << 4 for j in range(16))
    assert encode("IQ4_NL", rows).tobytes() == expected


def test_a_super_block_of_codebook_values_by_hand():
    # Block i has scale i - 4, so |scale| is largest in block 0 (-4): d = 4 / 32, and the levels are scale / d.
    rows = np.concatenate([(i - 4) * np.concatenate([VALUES, VALUES]) for i in range(8)])[None].astype(np.float32)
    block = encode("IQ4_XS", rows).view(BY_NAME["IQ4_XS"].block)[0, 0]
    assert block["d"] == np.float16(0.125)
    levels = [block["scales_l"][i // 2] >> 4 * (i % 2) & 15 | (block["scales_h"] >> 2 * i & 3) << 4 for i in range(8)]
    assert levels == [min(8 * (i - 4), 31) + 32 for i in range(8)]
    for i in (0, 1, 2, 3, 5, 6, 7):
        assert bytes(block["qs"][16 * i : 16 * i + 16]) == bytes(j | j << 4 for j in range(16))
    assert bytes(block["qs"][64:80]) == b"\x88" * 16  # scale 0: the value nearest to 0 is number 8


def test_midpoints_round_as_the_bisection_does():
    # At a midpoint of two values the C takes the upper, one float below it the lower.
    middle = (VALUES[1:] + VALUES[:-1]) / 2
    for nudge in (0, -1, 1):
        rows = np.zeros((1, 32), np.float32)
        rows[0, :15] = middle if nudge == 0 else np.nextafter(middle, np.float32(nudge * 1000))
        rows[0, 15] = -127  # with no importance this weight fixes the scale near 1
        assert np.array_equal(encode("IQ4_NL", rows), ggml_quantize("IQ4_NL", rows))


@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_llama_cpps(name: str):
    check_encode(name, 512)
    check_ragged(name)


@pytest.mark.parametrize("name", TYPES)
def test_floats_are_llama_cpps(name: str):
    check_decode(name)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-36, 30), st.floats(0, 12))
def test_any_finite_block(seed: int, exponent: float, spread: float):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 256)) * 10.0 ** (exponent + spread * rng.uniform(-0.5, 0.5, (4, 256)))
    rows = np.clip(x, -3e38, 3e38).astype(np.float32)
    importance = rng.random(256).astype(np.float32)
    for name in TYPES:
        for weights in (None, importance):
            assert np.array_equal(encode(name, rows, weights), ggml_quantize(name, rows, weights)), name


def test_importance_is_used_but_not_required():
    for name in TYPES:
        kernel = kernel_for(BY_NAME[name])
        assert kernel.uses_importance
        assert not kernel.requires_importance
