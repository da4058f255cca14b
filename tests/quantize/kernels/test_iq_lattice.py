"""The lattice types IQ1_S to IQ3_S against blocks worked by hand and against llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oracles.ggml import ggml_dequantize, ggml_quantize
from oracles.kernel_checks import (
    LATTICE,
    assert_same_bytes,
    check_decode,
    check_ragged,
    check_zero_importance,
    encode,
    importances,
    row_sets,
)
from quantmill.formats.qtypes import BY_NAME, qtype
from quantmill.quantize.kernels import kernel_for

REQUIRE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS")
TYPES = (*REQUIRE, "IQ2_S", "IQ3_XXS", "IQ3_S")


def decode_block(name: str, **fields: object) -> NDArray[np.float32]:
    """The 256 weights of one block with these fields, the others zero."""
    block = np.zeros((1, 1), qtype(name).block)
    for field, value in fields.items():
        values = np.atleast_1d(value)
        block[field].reshape(-1)[: len(values)] = values
    out = np.full((1, 256), np.nan, np.float32)
    kernel_for(qtype(name)).decode(block.view(np.uint8), out)
    return out[0]


def test_iq2_xxs_by_hand():
    # Sub-block 0: point 1 is (2, 0, ...), which is 43, 8, ...; sign bit 1 alone, so the eighth is set too; scale 3.
    out = decode_block("IQ2_XXS", d=4, qs=[1, 0, 1 << 1, 3 << 12])
    assert out[:8].tolist() == [3.5 * v for v in (43, -8, 8, 8, 8, 8, 8, -8)]  # 4 * (0.5 + 3) / 4
    assert (out[8:32] == 28).all()
    assert (out[32:] == 4).all()  # 4 * 0.5 / 4 * 8


def test_iq2_xs_by_hand():
    out = decode_block("IQ2_XS", d=4, qs=[1 | 0b0000011 << 9, 0, 1], scales=[0x21])
    assert out[:8].tolist() == [1.5 * v for v in (-43, -8, 8, 8, 8, 8, 8, 8)]
    assert out[16:24].tolist() == [2.5 * v for v in (43, 8, 8, 8, 8, 8, 8, 8)]
    assert (out[32:] == 4).all()


def test_iq2_s_by_hand():
    # Group 1: index 256 with its high bits in qh, point (1, 1, 1, 1, 1, 0, 1, 0).
    out = decode_block("IQ2_S", d=4, qs=[1, 0] + [0] * 30 + [0b10000001], qh=[0b0100], scales=[0x21])
    assert out[:8].tolist() == [1.5 * v for v in (-43, 8, 8, 8, 8, 8, 8, -8)]
    assert out[8:16].tolist() == [1.5 * (8, 25, 43)[v] for v in (1, 1, 1, 1, 1, 0, 1, 0)]
    assert (out[16:32] == 20).all()


def test_iq3_xxs_by_hand():
    # Point 1 is (2, 0, 0, 0): 20, 4, 4, 4. Signs 1 and 2 of the first eight, an even number; scale 5.
    out = decode_block("IQ3_XXS", d=2, qs=[1, 0], gas=[0b0000110 | 5 << 28])
    assert out[:8].tolist() == [5.5 * v for v in (20, -4, -4, 4, 4, 4, 4, 4)]  # 2 * (0.5 + 5) / 2
    assert (out[32:] == 2).all()


def test_iq3_s_by_hand():
    # Index 256 in the second group: point (3, 2, 4, 2).
    out = decode_block("IQ3_S", d=2, qs=[1, 0], qh=[0b10], signs=[0b10000000], scales=[0x50])
    assert out[:4].tolist() == [6, 2, 2, 2]
    assert out[4:7].tolist() == [2 * (2 * v + 1) for v in (3, 2, 4, 2)][:3]
    assert out[7] == -2 * (2 * (3, 2, 4, 2)[3] + 1)
    assert (out[32:64] == 22).all()  # 2 * (1 + 2 * 5)


def test_iq1_s_by_hand():
    # Point 1 is (2, 0, ...): 1, -1, ...; index 256 is (0, 1, 2, 1, 2, 0, 1, 0). Scale 3 gives 7; the shift is down.
    out = decode_block("IQ1_S", d=0.5, qs=[1, 0], qh=[0x8000 | 3 << 12 | 1 << 3])
    assert out[:8].tolist() == [3.5 * (v - 0.125) for v in (1, -1, -1, -1, -1, -1, -1, -1)]
    assert out[8:16].tolist() == [3.5 * (v - 1 - 0.125) for v in (0, 1, 2, 1, 2, 0, 1, 0)]
    assert (out[32:] == -0.4375).all()  # 0.5 * (-1 + 0.125)


def test_iq1_m_by_hand():
    # d = 0.5 is 0x3800: its nibbles stand above the scales. Scales 3 and 1 of the first two sub-blocks.
    out = decode_block("IQ1_M", qs=[1, 0, 1], qh=[1 << 4, 0x8], scales=[3 | 1 << 3, 0, 0x8000, 0x3000])
    assert out[:8].tolist() == [3.5 * (v + 0.125) for v in (1, -1, -1, -1, -1, -1, -1, -1)]
    assert out[8:16].tolist() == [3.5 * (v - 1 + 0.125) for v in (0, 1, 2, 1, 2, 0, 1, 0)]
    assert out[16:24].tolist() == [1.5 * (v - 0.125) for v in (1, -1, -1, -1, -1, -1, -1, -1)]
    assert (out[24:32] == 1.5 * -0.875).all()


def test_iq3_s_skips_zero_sub_blocks_as_llama_cpp_does():
    """Its encoder writes the points and signs of what follows a zero sub-block one sub-block too early."""
    rows = np.random.default_rng(1).standard_normal((1, 256)).astype(np.float32)
    whole = encode("IQ3_S", rows).view(qtype("IQ3_S").block)[0, 0]
    rows[0, :32] = 0
    block = encode("IQ3_S", rows).view(qtype("IQ3_S").block)[0, 0]
    assert (block["qs"][56:] == 0).all()
    assert (block["signs"][28:] == 0).all()
    assert np.array_equal(block["signs"][:28], whole["signs"][4:])
    assert block["scales"][0] & 15 == 0


@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_llama_cpps(name: str):
    for set_name, rows in row_sets(512, n=6):
        if set_name == "huge":  # beyond, weighted squares overflow and the C aborts
            rows = rows[:4]
        for importance_name, importance in importances(512):
            if importance is not None or name not in REQUIRE:
                assert_same_bytes(name, rows, importance, "F32", f"{set_name}, importance {importance_name}")


@pytest.mark.parametrize("name", LATTICE)
def test_all_zero_importance_is_what_llama_cpp_does(name: str):
    check_zero_importance(name, 768)


@pytest.mark.parametrize("name", TYPES)
def test_other_sources_and_ragged_tiles(name: str):
    rows = np.random.default_rng(2).standard_normal((3, 1024)).astype(np.float32)
    for source in ("F16", "BF16"):
        assert_same_bytes(name, rows, np.ones(1024, np.float32), source, "normal")
    check_ragged(name)


@pytest.mark.parametrize("name", TYPES)
def test_floats_are_llama_cpps(name: str):
    if name != "IQ1_M":  # no field of its own for d, which random bytes make infinite
        check_decode(name)
        return
    blocks = np.random.default_rng(0).integers(0, 256, (64, 56), dtype=np.uint8)
    blocks[:, 55] &= 0xBF
    ours = np.empty((64, 256), np.float32)
    kernel_for(qtype(name)).decode(blocks, ours)
    assert np.array_equal(ours, ggml_dequantize(name, blocks, 256))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(-12, 6), st.floats(0, 6), st.integers(0, 6))
def test_any_finite_block(seed: int, exponent: float, spread: float, digits: int):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 256)) * 10.0 ** (exponent + spread * rng.uniform(-0.5, 0.5, (4, 256)))
    rows = x.astype(np.float32)
    if digits:  # equal values, which a sort or a search may order either way
        step = np.abs(rows).max() / np.float32(digits)
        rows = (np.round(rows / step) * step).astype(np.float32)
    importance = (rng.random(256) * (rng.random(256) < 0.8)).astype(np.float32)
    for name in TYPES:
        assert np.array_equal(encode(name, rows, importance), ggml_quantize(name, rows, importance)), name


def test_which_need_importance():
    for name in TYPES:
        kernel = kernel_for(BY_NAME[name])
        assert kernel.uses_importance
        assert kernel.requires_importance == (name in REQUIRE)
