"""Conversions between F32, F16 and BF16: compiled and numpy's agree with each other and with llama.cpp."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from oracles.ggml import ggml_dequantize, ggml_quantize
from oracles.kernel_checks import as_stored, decode, encode, raw_rows
from quantmill.quantize.kernels import floats

NAMES = ("F32", "F16", "BF16")


def every_exponent(n: int) -> np.ndarray:
    """``n`` finite float32 of random bits, one row, and every boundary of half precision."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, n, np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] &= 0xBFFFFFFF
    edges = (np.arange(0, 1 << 16).astype(np.uint16).view(np.float16).astype(np.float32)).view(np.uint32)
    edges = edges[(edges & 0x7F800000) != 0x7F800000]
    near = (edges[:, None] + (np.array([0, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001], np.uint32))).ravel()
    return np.concatenate([bits, near]).view(np.float32)[None]


@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_large_arrays_are_llama_cpps(target: str):
    rows = every_exponent(100_003)  # compiled, and a rest of less than a vector
    assert rows.size % 16
    assert rows.size > floats._LARGE
    assert np.array_equal(encode(target, rows), ggml_quantize(target, rows))


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_compiled_is_numpys(source: str, target: str, monkeypatch: pytest.MonkeyPatch):
    rows = np.concatenate([np.random.default_rng(1).standard_normal((1, 70_000)), [[0.0, -0.0, 1e-6]]], axis=1)
    rows = rows.astype(np.float32)
    compiled = encode(target, rows, None, source)
    monkeypatch.setattr(floats, "_LARGE", rows.size + 1)
    assert np.array_equal(encode(target, rows, None, source), compiled)


@pytest.mark.parametrize("name", NAMES)
def test_large_arrays_decode(name: str):
    rows = every_exponent(70_001)[:, :70_001]  # of random bits
    blocks = raw_rows(rows, name)
    ours = decode(name, blocks, 70_001).view(np.uint32)
    assert np.array_equal(ours, as_stored(rows, name).view(np.uint32))
    assert np.array_equal(ours, ggml_dequantize(name, blocks, 70_001).view(np.uint32))


def test_nans_stay_and_bf16s_are_quiet():
    rows = np.full((1, floats._LARGE), np.nan, np.float32)
    rows.view(np.uint32)[0, ::2] = 0xFF800001
    assert np.isnan(decode("F16", encode("F16", rows), rows.size)).all()
    assert encode("BF16", rows).view(np.uint16)[0, :2].tolist() == [0xFFC0, 0x7FC0]


def test_copies_and_small_arrays_need_no_numba():
    code = """
import sys, numpy as np
from quantmill.formats.qtypes import BF16, F16, F32
from quantmill.quantize.kernels import kernel_for
rows = np.ones((1, 1 << 20), np.float16)
kernel_for(F16).encode(rows.view(np.uint8), F16, None, np.empty_like(rows).view(np.uint8))
kernel_for(F32).encode(rows[:, :4096].view(np.uint8), F16, None, np.empty((1, 4096), np.float32).view(np.uint8))
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
