"""Q4_0, Q4_1, Q5_0 and Q5_1 with importance: the k-quants' searches on blocks of 32, in lanes."""

from __future__ import annotations

import numpy as np

from .base import LANES, jit, jit_part
from .kscale import put_half, weigh
from .lanes import load_importance_lanes, load_lanes, load_tile, store_lanes
from .search import levels_qkx, levels_qx, make_qkx, make_qx
from .simd import VEC, spread, vload, vstore

_COLUMNS = 256  # of 32 rows at a time: 32 KiB


@jit
def mean_squares(src, code, width, means):  # type: ignore[no-untyped-def]
    """The mean square of each row (summed in order, as the C does) into ``means`` float32 [n rows]."""
    x = np.empty((_COLUMNS, LANES), np.float32)
    sums = np.empty((1, LANES), np.float32)
    for row in range(0, means.size, LANES):
        n = min(LANES, means.size - row)
        for h in range(0, LANES, VEC):
            vstore(sums, 0, h, spread(np.float32(0)))
        for column in range(0, width, _COLUMNS):
            size = min(_COLUMNS, width - column)
            load_tile(src, code, row * width + column, width, n, size, x)
            for h in range(0, n, VEC):
                total = vload(sums, 0, h)
                for i in range(size):
                    v = vload(x, i, h)
                    total = total + v * v
                vstore(sums, 0, h, total)
        for lane in range(n):
            means[row + lane] = sums[0, lane] / np.float32(width)


@jit
def search_scale(x, w, bits, p, levels, aux, h):  # type: ignore[no-untyped-def]
    """Q4_0 and Q5_0: the searched scale into the head bytes of ``p``, and the levels."""
    middle = 1 << (bits - 1)
    d, iscale = make_qx(x, w, 0, 32, h, middle, aux)
    put_half(p, 0, h, d)
    for i in range(32):
        vstore(levels, i, h, levels_qx(vload(x, i, h), iscale, middle))


@jit
def search_scale_min(x, w, bits, p, levels, aux, h):  # type: ignore[no-untyped-def]
    """Q4_1 and Q5_1: the searched scale and min into the head bytes of ``p``, and the levels."""
    top = (1 << bits) - 1
    d, low, iscale, base = make_qkx(x, w, 0, 32, h, top, np.float32(-0.9), np.float32(0.05), 36, False, aux)
    put_half(p, 0, h, d)
    put_half(p, 2, h, low)
    for i in range(32):
        vstore(levels, i, h, levels_qkx(vload(x, i, h), iscale, base, top))


@jit_part
def encode_weighted(src, code, importance, out, bits, head, search):  # type: ignore[no-untyped-def]
    """``quantize_row_q{4,5}_{0,1}_impl``: ``search`` writes the first ``head`` bytes of the blocks."""
    qs = head + (4 if bits == 5 else 0)
    x = np.empty((32, LANES), np.float32)
    w = np.empty((32, LANES), np.float32)
    aux = np.empty((32, LANES), np.float32)
    sigma2 = np.empty((1, LANES), np.float32)
    levels = np.empty((32, LANES), np.uint8)
    p = np.empty((qs + 16, LANES), np.uint8)
    width = importance.size
    means = np.empty(out.shape[0], np.float32)
    mean_squares(src, code, width, means)
    n_blocks = out.size // (qs + 16)
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 32, x)
        load_importance_lanes(importance, block, n, 32, w)
        for lane in range(LANES):
            sigma2[0, lane] = means[min(32 * (block + lane) // width, means.size - 1)]
        for h in range(0, n, VEC):
            weigh(x, w, 0, 32, h, vload(sigma2, 0, h))
            search(x, w, bits, p, levels, aux, h)
            for i in range(16):
                vstore(p, qs + i, h, (vload(levels, i, h) & 15) | (vload(levels, i + 16, h) & 15) << 4)
            for k in range(qs - head):
                high = spread(0)
                for i in range(8):
                    high = high | (vload(levels, 8 * k + i, h) >> 4) << i
                vstore(p, head + k, h, high)
        store_lanes(p, out, block, n)


@jit
def encode_q4_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    encode_weighted(src, code, importance, out, 4, 2, search_scale)


@jit
def encode_q4_1(src, code, importance, out):  # type: ignore[no-untyped-def]
    encode_weighted(src, code, importance, out, 4, 4, search_scale_min)


@jit
def encode_q5_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    encode_weighted(src, code, importance, out, 5, 2, search_scale)


@jit
def encode_q5_1(src, code, importance, out):  # type: ignore[no-untyped-def]
    encode_weighted(src, code, importance, out, 5, 4, search_scale_min)
