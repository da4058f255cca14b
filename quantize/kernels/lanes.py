"""Between rows of floats and the lane form ``X[i, lane]``: the read of F32, F16 and BF16 fused with the transpose.

Blocks are numbered through the rows: block ``b`` is block ``b % blocks_per_row`` of row ``b // blocks_per_row``.
"""

from __future__ import annotations

import numpy as np

from .base import LANES, float_to_half, jit, jit_inline, load_f16
from .simd import VEC, load_f32v, load_half, store_byte, vstore_flat


@jit
def load_floats(src, code, start, x):  # type: ignore[no-untyped-def]
    """``x[:]`` = the floats from flat weight index ``start`` of raw rows ``src`` uint8 [n, row bytes].

    ``len(x)`` is a multiple of ``VEC``.
    """
    for i in range(0, x.shape[0], VEC):
        if code == 0:
            vstore_flat(x, i, load_f32v(src, 4 * (start + i)))
        else:
            vstore_flat(x, i, load_half(src, 2 * (start + i), code == 1))


@jit
def load_lanes(src, code, first_block, n_lanes, block_size, X):  # type: ignore[no-untyped-def]
    """Fill ``X`` float32 [block_size, LANES] with ``n_lanes`` consecutive blocks; the other lanes get zeros.

    ``src`` uint8 [n, row bytes] holds float rows of type ``code`` (``SOURCE_CODE``), a whole number of blocks each;
    ``block_size`` is a multiple of ``VEC``.
    """
    load_tile(src, code, first_block * block_size, block_size, n_lanes, block_size, X)


@jit
def load_tile(src, code, start, stride, n_lanes, size, X):  # type: ignore[no-untyped-def]
    """Fill ``X[:size, lane]`` with ``size`` weights from flat index ``start + lane * stride``; zeros from ``n_lanes``.

    ``size`` is a multiple of ``VEC``.
    """
    x = np.empty(size, np.float32)
    for lane in range(LANES):
        if lane < n_lanes:
            load_floats(src, code, start + lane * stride, x)
        else:
            x[:] = np.float32(0)
        for i in range(size):
            X[i, lane] = x[i]


@jit
def load_importance_lanes(importance, first_block, n_lanes, block_size, W):  # type: ignore[no-untyped-def]
    """Fill ``W`` float32 [block_size, LANES] with the importance float32 [width] of the same blocks; zeros beyond."""
    blocks_per_row = importance.shape[0] // block_size
    for lane in range(LANES):
        start = (first_block + lane) % blocks_per_row * block_size
        for i in range(block_size):
            W[i, lane] = importance[start + i] if lane < n_lanes else np.float32(0)


@jit
def store_lanes(P, out, first_block, n_lanes):  # type: ignore[no-untyped-def]
    """Write blocks from their lane form ``P`` uint8 [block bytes, LANES] to their places in ``out`` uint8 [n, row
    bytes]."""
    size = P.shape[0]
    for lane in range(n_lanes):
        start = (first_block + lane) * size
        for i in range(size):
            store_byte(out, start + i, P[i, lane])


@jit_inline
def half_at(raw, offset):  # type: ignore[no-untyped-def]
    """The IEEE half at a byte offset of a C-contiguous uint8 array, as float32."""
    return load_f16(raw, offset)


@jit_inline
def store_half(raw, offset, x):  # type: ignore[no-untyped-def]
    """Write ``x`` as an IEEE half at a byte offset of a C-contiguous uint8 array."""
    half = float_to_half(np.float32(x))
    raw[offset] = np.uint8(half & np.uint16(0xFF))
    raw[offset + 1] = np.uint8(half >> np.uint16(8))
