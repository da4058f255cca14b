"""MXFP4 and NVFP4 with importance: each scale is the one of several candidates with the least weighted error.

llama.cpp ignores importance in these types and takes the scale from the largest weight alone, so these bytes are
quantmill's own. The first candidate is the scale that llama.cpp takes; another must be strictly better. E2M1 values
are uneven, so where the largest weight comes to lie among them matters more than how large the scale is.
"""

from __future__ import annotations

import numpy as np

from .base import LANES, jit, jit_inline, jit_part
from .lanes import load_importance_lanes, load_lanes, store_lanes
from .simd import VEC, bits_of, from_bits, spread, to_float, vabs, vload, vmax, vmin, vnearest, vstore, where

_ZERO, _ONE, _TWO, _FOUR = np.float32(0), np.float32(1), np.float32(2), np.float32(4)
_BELOW_ONE = np.float32(1 - 2**-24)  # moves what lies in the middle below it, and nothing else that matters
_SHIFT = np.float32(12582912)  # 1.5 * 2**23: adding it rounds to an integer
# Candidates below and above llama.cpp's scale. UE4M3 has eight to the octave: from the largest weight at 7.5 to where
# it lies at 3.5; E8M0 has one to the octave.
NVFP4_BELOW, NVFP4_ABOVE = 3, 6
MXFP4_BELOW, MXFP4_ABOVE = 1, 1
_MOST_UE4M3, _MOST_E8M0 = 0x7E, 254


@jit_inline
def _magnitude(t):  # type: ignore[no-untyped-def]
    """Twice the E2M1 magnitude nearest to ``t`` >= 0, of 0 1 2 3 4 6 8 12; the smaller of two as near."""
    t = t * _BELOW_ONE
    unit = where(t < _FOUR, spread(_ONE), where(t < np.float32(8), spread(_TWO), _FOUR))
    shift = unit * _SHIFT
    return vmin(np.float32(12), (t + shift) - shift)


@jit_inline
def _ue4m3(code):  # type: ignore[no-untyped-def]
    """Half the value of UE4M3 codes from 1 to 0x7E."""
    return where(code < 8, to_float(code) * np.float32(1 / 1024), from_bits((code + 952) << 20))


@jit_inline
def _ue4m3_of(x):  # type: ignore[no-untyped-def]
    """The codes that llama.cpp takes for scales >= 0; half rounds up."""
    bits = bits_of(x)
    least = np.float32(1 / 64)
    steps = vmin(7, vnearest(vmin(x, least) * np.float32(512)))
    return where(x < least, steps, vmin(_MOST_UE4M3, ((bits + 0x80000) >> 20) - 960))


@jit_inline
def _e8m0(code):  # type: ignore[no-untyped-def]
    """Half the value of E8M0 codes from 1 to 254: 2**(code - 128), the first subnormal."""
    return where(code < 2, spread(np.float32(2**-127)), from_bits((code - 1) << 23))


@jit_inline
def _e8m0_of(x):  # type: ignore[no-untyped-def]
    """The codes that put the largest weight ``x`` between 4 and 8."""
    return (bits_of(x) >> 23) - 2


@jit_inline
def _error(x, w, r, n, h, d):  # type: ignore[no-untyped-def]
    """The weighted squared error of ``n`` weights from row ``r`` on under half-scales ``d``."""
    inverse = _ONE / d
    total = spread(_ZERO)
    for i in range(r, r + n):
        t = vabs(vload(x, i, h)) * inverse
        diff = t - _magnitude(t)
        total = total + vload(w, i, h) * diff * diff
    return total * d * d


@jit_part
def _search(x, w, r, n, h, first, below, above, most, value):  # type: ignore[no-untyped-def]
    """The codes of the scales with the least error: ``first``, or one from ``first - below`` to ``first + above``."""
    first = vmax(1, first)
    best = first
    least = _error(x, w, r, n, h, value(first))
    for step in range(-below, above + 1):
        if step == 0:
            continue
        code = vmin(most, vmax(1, first + step))
        error = _error(x, w, r, n, h, value(code))
        better = error < least
        least = where(better, error, least)
        best = where(better, code, best)
    return best


@jit_part
def _codes(x, r, n, h, d, codes):  # type: ignore[no-untyped-def]
    """Write the E2M1 codes of ``n`` weights under half-scales ``d``."""
    inverse = _ONE / d
    for i in range(r, r + n):
        v = vload(x, i, h)
        q = vnearest(_magnitude(vabs(v) * inverse))
        index = where(q < 5, q, where(q < 7, spread(5), where(q < 9, spread(6), 7)))
        vstore(codes, i, h, where((v < _ZERO) & (q > 0), index + 8, index))


@jit_inline
def _largest(x, r, n, h):  # type: ignore[no-untyped-def]
    largest = spread(_ZERO)
    for i in range(r, r + n):
        largest = vmax(largest, vabs(vload(x, i, h)))
    return largest


@jit
def encode_nvfp4(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((64, LANES), np.float32)
    w = np.empty((64, LANES), np.float32)
    codes = np.empty((64, LANES), np.uint8)
    p = np.empty((36, LANES), np.uint8)
    n_blocks = out.size // 36
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 64, x)
        load_importance_lanes(importance, block, n, 64, w)
        for h in range(0, n, VEC):
            for s in range(4):
                r = 16 * s
                largest = _largest(x, r, 16, h)
                first = _ue4m3_of(largest / np.float32(6))
                scale = _search(x, w, r, 16, h, first, NVFP4_BELOW, NVFP4_ABOVE, _MOST_UE4M3, _ue4m3)
                _codes(x, r, 16, h, _ue4m3(scale), codes)
                vstore(p, s, h, where(largest == _ZERO, 0, scale))
                for j in range(8):
                    vstore(p, 4 + 8 * s + j, h, vload(codes, r + j, h) | vload(codes, r + j + 8, h) << 4)
        store_lanes(p, out, block, n)


@jit
def encode_mxfp4(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((32, LANES), np.float32)
    w = np.empty((32, LANES), np.float32)
    codes = np.empty((32, LANES), np.uint8)
    p = np.empty((17, LANES), np.uint8)
    n_blocks = out.size // 17
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 32, x)
        load_importance_lanes(importance, block, n, 32, w)
        for h in range(0, n, VEC):
            largest = _largest(x, 0, 32, h)
            first = _e8m0_of(largest)
            scale = _search(x, w, 0, 32, h, first, MXFP4_BELOW, MXFP4_ABOVE, _MOST_E8M0, _e8m0)
            _codes(x, 0, 32, h, _e8m0(scale), codes)
            vstore(p, 0, h, where(largest == _ZERO, 0, scale))
            for j in range(16):
                vstore(p, 1 + j, h, vload(codes, j, h) | vload(codes, j + 16, h) << 4)
        store_lanes(p, out, block, n)
