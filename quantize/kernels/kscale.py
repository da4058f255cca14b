"""Helpers of all k-quants: weights from importance, and the packed forms of their super-blocks.

Arrays are in the lane form [i, lane]; ``h`` is the first lane of the vector in hand.
"""

from __future__ import annotations

import numpy as np

from .base import LANES, jit, jit_inline, jit_part
from .search import levels_qkx, make_qkx, make_qp
from .simd import from_half_bits, half_bits, spread, to_float, vabs, vload, vmax, vmin, vnearest, vsqrt, vstore, where

_ZERO = np.float32(0)


@jit
def square_sum(x, r, n, h):  # type: ignore[no-untyped-def]
    """The sum of squares of rows r .. r+n."""
    total = spread(_ZERO)
    for i in range(r, r + n):
        v = vload(x, i, h)
        total = total + v * v
    return total


@jit
def weigh(x, w, r, n, h, sigma2):  # type: ignore[no-untyped-def]
    """Turn importance in ``w`` into the search's weights, importance * sqrt(sigma2 + x^2), in place; their sum."""
    total = spread(_ZERO)
    for i in range(r, r + n):
        v = vload(x, i, h)
        weight = vload(w, i, h) * vsqrt(sigma2 + v * v)
        vstore(w, i, h, weight)
        total = total + weight
    return total


@jit
def put_half(p, row, h, v):  # type: ignore[no-untyped-def]
    """Store ``v`` as IEEE half in rows ``row`` and ``row + 1`` of the block bytes; the float32 it rounds to."""
    bits = half_bits(v)
    vstore(p, row, h, bits)
    vstore(p, row + 1, h, bits >> 8)
    return from_half_bits(bits)


@jit_part
def put_crumbs(levels, p, row, h):  # type: ignore[no-untyped-def]
    """Pack 256 two-bit levels as Q2_K and Q3_K do: byte k of a half holds levels k, k+32, k+64, k+96 of it."""
    for half in range(2):
        for k in range(32):
            j = 128 * half + k
            low = vload(levels, j, h) & 3 | (vload(levels, j + 32, h) & 3) << 2
            high = (vload(levels, j + 64, h) & 3) << 4 | (vload(levels, j + 96, h) & 3) << 6
            vstore(p, row + 32 * half + k, h, low | high)


@jit_part
def put_scales_k4(p, row, h, ls, lm):  # type: ignore[no-untyped-def]
    """Pack eight 6-bit scales and mins (uint8 [8, LANES]) into the 12 bytes of Q4_K and Q5_K."""
    for j in range(4):
        s, m = vload(ls, j + 4, h), vload(lm, j + 4, h)
        vstore(p, row + j, h, vload(ls, j, h) | (s >> 4) << 6)
        vstore(p, row + j + 4, h, vload(lm, j, h) | (m >> 4) << 6)
        vstore(p, row + j + 8, h, (s & 15) | (m & 15) << 4)


@jit_part
def get_scale_min_k4(p, row, j, h):  # type: ignore[no-untyped-def]
    """Scale and min ``j`` back from the 12 bytes, as int32 vectors."""
    if j < 4:
        return vload(p, row + j, h) & 63, vload(p, row + j + 4, h) & 63
    both = vload(p, row + j + 4, h)
    scale = (both & 15) | (vload(p, row + j - 4, h) >> 6) << 4
    return scale, (both >> 4) | (vload(p, row + j, h) >> 6) << 4


@jit_part
def encode_k4(x, w, weighted, nmax, rmin, nstep, cap, p, levels, h):  # type: ignore[no-untyped-def]
    """The 16 head bytes (d, dmin, scales) of Q4_K or Q5_K into ``p``, and the 256 levels.

    ``rmin`` and ``nstep`` are those of the search without importance; ``cap`` is the largest packed scale or min.
    """
    aux = np.empty((32, LANES), np.float32)
    scales = np.empty((8, LANES), np.float32)
    mins = np.empty((8, LANES), np.float32)
    sum_w = np.empty((8, LANES), np.float32)
    level_iscale = np.empty((8, LANES), np.float32)
    level_min = np.empty((8, LANES), np.float32)
    ls = np.empty((8, LANES), np.uint8)
    lm = np.empty((8, LANES), np.uint8)
    sigma2 = spread(_ZERO)
    if weighted:
        sigma2 = np.float32(2) * square_sum(x, 0, 256, h) / np.float32(256)
    step = np.float32(0.1)
    if weighted:
        rmin, step, nstep = np.float32(-0.9), np.float32(0.05), 36
    for j in range(8):
        r = 32 * j
        if weighted:
            vstore(sum_w, j, h, weigh(x, w, r, 32, h, sigma2))
        else:
            mean = vsqrt(square_sum(x, r, 32, h) / np.float32(32))
            for i in range(r, r + 32):
                vstore(w, i, h, mean + vabs(vload(x, i, h)))
        found = make_qkx(x, w, r, 32, h, nmax, rmin, step, nstep, False, aux)
        vstore(scales, j, h, found[0])
        vstore(mins, j, h, _ZERO - found[1])
        vstore(level_iscale, j, h, found[2])
        vstore(level_min, j, h, found[3])
    if weighted:
        d = make_qp(scales, sum_w, 8, h, 63, ls)
        dmin = make_qp(mins, sum_w, 8, h, 63, lm)
    else:
        d = round_scales(scales, ls, h)
        dmin = round_scales(mins, lm, h)
    if cap < 255:
        for j in range(8):
            vstore(ls, j, h, vmin(cap, vload(ls, j, h)))
            vstore(lm, j, h, vmin(cap, vload(lm, j, h)))
    d = put_half(p, 0, h, d)
    dmin = put_half(p, 2, h, dmin)
    put_scales_k4(p, 4, h, ls, lm)
    for j in range(8):
        scale, low = get_scale_min_k4(p, 4, j, h)
        dj = d * to_float(scale)
        mj = dmin * to_float(low)
        none = dj == _ZERO
        iscale = vload(level_iscale, j, h)
        base = vload(level_min, j, h)
        for i in range(32 * j, 32 * j + 32):
            v = vload(x, i, h)
            level = vmax(0, vmin(nmax, vnearest((v + mj) / dj)))
            vstore(levels, i, h, where(none, levels_qkx(v, iscale, base, nmax), level))


@jit
def round_scales(scales, ls, h):  # type: ignore[no-untyped-def]
    """The plain rounding of eight sub-block scales to 6 bits (bytes, capped at 63) and their scale."""
    top = spread(_ZERO)
    for j in range(8):
        top = vmax(vload(scales, j, h), top)
    inverse = where(top > _ZERO, np.float32(63) / top, _ZERO)
    for j in range(8):
        vstore(ls, j, h, vmin(63, vnearest(inverse * vload(scales, j, h)) & 255))
    return top / np.float32(63)


@jit_inline
def scale_min(block, j):  # type: ignore[no-untyped-def]
    """6-bit scale and min ``j`` of a block's bytes."""
    if j < 4:
        return block[4 + j] & 63, block[8 + j] & 63
    both = block[8 + j]
    return (both & 15) | (block[j] >> 6) << 4, (both >> 4) | (block[4 + j] >> 6) << 4
