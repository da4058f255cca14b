"""Convert rows of F32, F16 or BF16 to the lane form ``X[i, lane]`` while reading them, and blocks back to rows.

Blocks are numbered through the rows: block ``b`` is block ``b % blocks_per_row`` of row ``b // blocks_per_row``.
"""

from __future__ import annotations

import numpy as np

from .base import LANES, float_to_half, jit, jit_inline, load_f16
from .simd import VEC, load_f32v, load_half, transpose_8x8, transpose_bytes, vload, vstore_bytes, vstore_flat


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
    x = np.empty((8, size), np.float32)
    for lane in range(0, LANES, 8):
        for k in range(8):
            if lane + k < n_lanes:
                load_floats(src, code, start + (lane + k) * stride, x[k])
            else:
                x[k] = np.float32(0)
        for i in range(0, size, 8):
            transpose_8x8(x, 0, i, X, i, lane)


@jit
def load_importance_lanes(importance, first_block, n_lanes, block_size, W):  # type: ignore[no-untyped-def]
    """Fill ``W`` float32 [block_size, LANES] with the importance float32 [width] of the same blocks; zeros beyond."""
    blocks_per_row = importance.shape[0] // block_size
    x = np.empty((8, block_size), np.float32)
    for lane in range(0, LANES, 8):
        for k in range(8):
            start = (first_block + lane + k) % blocks_per_row * block_size
            inside = lane + k < n_lanes
            for i in range(block_size):
                x[k, i] = importance[start + i] if inside else np.float32(0)
        for i in range(0, block_size, 8):
            transpose_8x8(x, 0, i, W, i, lane)


@jit
def store_lanes(P, out, first_block, n_lanes):  # type: ignore[no-untyped-def]
    """Write blocks from their lane form ``P`` uint8 [block bytes, LANES] to their places in ``out`` uint8 [n, row
    bytes]."""
    size = P.shape[0]
    square = np.empty((16, 16), np.uint8)
    for lane in range(0, n_lanes, 16):
        for step in range(0, size, 16):
            i = min(step, size - 16)  # the last square overlaps the one before; no block has fewer bytes
            transpose_bytes(P, i, lane, square)
            for k in range(min(16, n_lanes - lane)):
                vstore_bytes(out, (first_block + lane + k) * size + i, vload(square, k, 0))


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
