"""MXFP4 and NVFP4: E2M1 weights under a shared scale, a power of two (E8M0) for 32 or a UE4M3 for each 16.

Source: ``quantize_row_mxfp4_ref`` and ``quantize_row_nvfp4_ref`` in ggml-quants.c, the scales in ggml-impl.h. The C
looks through all 16 values for the first of the least error. The values on the other side of zero never beat the
zero they follow, so we look through 8 magnitudes and give the sign back.

MXFP4's exponent is ``floorf(log2f(max))``. Just below a power of two log2f rounds up to it, by up to 44 floats;
``_EXPONENT_STARTS`` holds the first float of each exponent (equal to glibc's log2f at every power of two). A block
whose largest weight is below 2**-125 makes the C convert a negative float to uint8: undefined in C, but every x86
compiler wraps it, and so do we. Its weights all become zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME
from . import fp4_search
from .base import F32_ARRAY, Kernel, bits_to_float, float_to_bits, jit, jit_inline
from .fp4_scales import UE4M3_HALVES
from .lanes import load_floats

_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # twice the E2M1 values
_LEAST_EXPONENT = -149
_CHUNK = 1024  # weights loaded at a time


def _exponent_starts() -> NDArray[np.int32]:
    """Bits of the first positive float whose rounded log2 reaches -149, -148, ... 128; then a bound no float meets."""
    exponents = np.arange(_LEAST_EXPONENT, 129)
    powers = np.where(exponents < -126, 1 << np.maximum(exponents + 149, 0), np.maximum(exponents + 127, 0) << 23)
    candidates = np.maximum(powers[:, None] - np.arange(64), 0).astype(np.int32)
    with np.errstate(divide="ignore"):
        rounded = np.log2(candidates.view(np.float32).astype(np.float64)).astype(np.float32)
    starts = powers + 1 - (rounded >= exponents[:, None]).sum(1)
    return np.append(starts, 0x7FFFFFFF).astype(np.int32)


_EXPONENT_STARTS = _exponent_starts()


@jit_inline
def _floor_log2(bits):  # type: ignore[no-untyped-def]
    """``floorf(log2f(x))`` of a positive float given by its bits."""
    exponent = (bits >> 23) - 127 if bits >= 0x00800000 else _LEAST_EXPONENT - 1
    while bits >= _EXPONENT_STARTS[exponent + 1 - _LEAST_EXPONENT]:
        exponent += 1
    return exponent


@jit_inline
def _half_of_e8m0(code):  # type: ignore[no-untyped-def]
    """2**(code - 128) as float32; the first two are subnormal."""
    return bits_to_float(np.int32((0x00200000 << code) if code < 2 else (code - 1) << 23))


@jit_inline
def _largest_bits(x, start, n):  # type: ignore[no-untyped-def]
    """Bits of the largest magnitude; positive floats sort as their bits do."""
    largest = np.int32(0)
    for j in range(n):
        largest = max(largest, np.int32(float_to_bits(x[start + j]) & np.int32(0x7FFFFFFF)))
    return largest


@jit_inline
def _round_block(x, start, n, d, indices):  # type: ignore[no-untyped-def]
    """``indices[:n]`` = the E2M1 code of each weight under scale ``d``: the first of the least float error."""
    d1, d2, d3, d4 = d, np.float32(2) * d, np.float32(3) * d, np.float32(4) * d
    d5, d6, d7 = np.float32(6) * d, np.float32(8) * d, np.float32(12) * d
    for j in range(n):
        v = x[start + j]
        a = abs(v)
        error = a
        index = np.int32(0)
        e = abs(d1 - a)
        index = np.int32(1) if e < error else index
        error = min(e, error)
        e = abs(d2 - a)
        index = np.int32(2) if e < error else index
        error = min(e, error)
        e = abs(d3 - a)
        index = np.int32(3) if e < error else index
        error = min(e, error)
        e = abs(d4 - a)
        index = np.int32(4) if e < error else index
        error = min(e, error)
        e = abs(d5 - a)
        index = np.int32(5) if e < error else index
        error = min(e, error)
        e = abs(d6 - a)
        index = np.int32(6) if e < error else index
        error = min(e, error)
        index = np.int32(7) if abs(d7 - a) < error else index
        sign = np.int32(8) if v < np.float32(0) else np.int32(0)
        indices[j] = np.int32(index + (sign if index > np.int32(0) else np.int32(0)))


@jit
def _encode_mxfp4(src, code, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 17)
    x = np.empty(_CHUNK, np.float32)
    indices = np.empty(32, np.int32)
    for b in range(len(blocks)):
        start = b * 32 % _CHUNK
        if start == 0:
            load_floats(src, code, b * 32, x[: min(_CHUNK, (len(blocks) - b) * 32)])
        largest = _largest_bits(x, start, 32)
        e = (_floor_log2(largest) + 125) & 0xFF if largest > 0 else 0
        _round_block(x, start, 32, _half_of_e8m0(e), indices)
        blocks[b, 0] = e
        for j in range(16):
            blocks[b, 1 + j] = np.uint8(indices[j] | (indices[j + 16] << np.int32(4)))


@jit_inline
def _to_ue4m3(x):  # type: ignore[no-untyped-def]
    """``ggml_fp32_to_ue4m3``: half rounds up, a subnormal stays below 8 steps, and from 256 on all is 0x7E (448)."""
    if not x > np.float32(0):
        return np.int32(0)
    bits = float_to_bits(x)
    exponent = (bits >> 23) - 120
    if exponent <= 0:
        steps = np.int32(x * np.float32(512) + np.float32(0.5))
        return steps if steps < 7 else np.int32(7)
    code = (exponent << 3) + ((bits >> 20) & 7) + ((bits >> 19) & 1)
    return np.int32(code) if code < 0x78 else np.int32(0x7E)


@jit
def _encode_nvfp4(src, code, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 36)
    x = np.empty(_CHUNK, np.float32)
    indices = np.empty(16, np.int32)
    for b in range(len(blocks)):
        start = b * 64 % _CHUNK
        if start == 0:
            load_floats(src, code, b * 64, x[: min(_CHUNK, (len(blocks) - b) * 64)])
        for s in range(4):
            largest = bits_to_float(_largest_bits(x, start + 16 * s, 16))
            scale = _to_ue4m3(largest / np.float32(6))
            _round_block(x, start + 16 * s, 16, UE4M3_HALVES[scale], indices)
            blocks[b, s] = scale
            for j in range(8):
                blocks[b, 4 + 8 * s + j] = np.uint8(indices[j] | (indices[j + 8] << np.int32(4)))


@jit
def _decode_mxfp4(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 17)
    weights = out.reshape(-1, 32)
    for b in range(len(source)):
        d = _half_of_e8m0(np.int32(source[b, 0]))
        for j in range(16):
            weights[b, j] = _VALUES[source[b, 1 + j] & 15] * d
            weights[b, j + 16] = _VALUES[source[b, 1 + j] >> 4] * d


@jit
def _decode_nvfp4(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 36)
    weights = out.reshape(-1, 4, 16)
    for b in range(len(source)):
        for s in range(4):
            d = UE4M3_HALVES[source[b, s]]
            for j in range(8):
                q = source[b, 4 + 8 * s + j]
                weights[b, s, j] = _VALUES[q & 15] * d
                weights[b, s, j + 8] = _VALUES[q >> 4] * d


def _encoder(plain: Callable[..., None], weighted: Callable[..., None]) -> Callable[..., None]:
    """Choose the encoder before compiled code is entered, so that only the one needed is compiled."""

    def encode_rows(src: Bytes, code: int, importance: F32_ARRAY, out: Bytes) -> None:
        if importance.size:
            weighted(src, code, importance, out)
        else:
            plain(src, code, out)

    return encode_rows


def _kernel(
    name: str, plain: Callable[..., None], weighted: Callable[..., None], decode: Callable[..., None]
) -> Kernel:
    return Kernel(BY_NAME[name], _encoder(plain, weighted), decode, uses_importance=True, own_search=True)


KERNELS = {
    "MXFP4": _kernel("MXFP4", _encode_mxfp4, fp4_search.encode_mxfp4, _decode_mxfp4),
    "NVFP4": _kernel("NVFP4", _encode_nvfp4, fp4_search.encode_nvfp4, _decode_nvfp4),
}
