"""Q3_K: super-blocks of 16 sub-blocks of 16; weight = d*scale*(level - 4), levels of 3 bits (the third in ``hmask``,
where it is set for levels of 4 and more), scales of 6."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_part
from .kscale import put_crumbs, put_half, square_sum, weigh
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .search import levels_qx, make_q3, make_qx
from .simd import VEC, spread, to_float, vabs, vload, vmax, vmin, vnearest, vstore, where

_ZERO = np.float32(0)
_HMASK, _QS, _SCALES, _D = 0, 32, 96, 108  # byte offsets in the block


@jit_part
def encode_vector(x, w, weighted, p, h):  # type: ignore[no-untyped-def]
    """The vector of blocks at lane ``h``, into their bytes ``p`` uint8 [110, LANES]."""
    aux = np.empty((16, LANES), np.float32)
    scales = np.empty((16, LANES), np.float32)
    sum_w = np.empty((16, LANES), np.float32)
    ls = np.empty((16, LANES), np.uint8)
    levels = np.empty((256, LANES), np.uint8)  # the search's, then the final ones
    if weighted:
        sigma2 = np.float32(2) * square_sum(x, 0, 256, h) / np.float32(256)
        for j in range(16):
            r = 16 * j
            vstore(sum_w, j, h, weigh(x, w, r, 16, h, sigma2))
            scale, iscale = make_qx(x, w, r, 16, h, 4, aux)
            vstore(scales, j, h, scale)
            for i in range(r, r + 16):
                vstore(levels, i, h, levels_qx(vload(x, i, h), iscale, 4))
        d, iscale = make_qx(scales, sum_w, 0, 16, h, 32, aux)
        for j in range(16):
            vstore(ls, j, h, levels_qx(vload(scales, j, h), iscale, 32))
    else:
        for j in range(16):
            vstore(scales, j, h, make_q3(x, 16 * j, 16, h, 4, levels))
        d = round_scales(scales, ls, h)
    d = put_half(p, _D, h, d)
    for j in range(4):
        a, b, c, e = vload(ls, j, h), vload(ls, j + 4, h), vload(ls, j + 8, h), vload(ls, j + 12, h)
        vstore(p, _SCALES + j, h, a & 15 | (c & 15) << 4)
        vstore(p, _SCALES + j + 4, h, b & 15 | (e & 15) << 4)
        vstore(p, _SCALES + j + 8, h, a >> 4 | b >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6)
    for j in range(16):
        dj = d * to_float(vload(ls, j, h) - 32)
        none = dj == _ZERO
        for i in range(16 * j, 16 * j + 16):
            level = vmax(-4, vmin(3, vnearest(vload(x, i, h) / dj))) + 4
            vstore(levels, i, h, where(none, vload(levels, i, h), level))
    for i in range(32):
        mask = spread(0)
        for j in range(8):
            mask = mask | (vload(levels, 32 * j + i, h) >> 2) << j
        vstore(p, _HMASK + i, h, mask)
    put_crumbs(levels, p, _QS, h)


@jit_part
def round_scales(scales, ls, h):  # type: ignore[no-untyped-def]
    """The plain rounding of sixteen sub-block scales to 6 bits, by the one of largest magnitude, and their scale."""
    amax = spread(_ZERO)
    extreme = spread(_ZERO)
    for j in range(16):
        v = vload(scales, j, h)
        larger = vabs(v) > amax
        amax = where(larger, vabs(v), amax)
        extreme = where(larger, v, extreme)
    iscale = np.float32(-32) / extreme
    some = extreme != _ZERO
    for j in range(16):
        as_int8 = vnearest(iscale * vload(scales, j, h)) << 24 >> 24
        vstore(ls, j, h, where(some, vmax(-32, vmin(31, as_int8)) + 32, 0))
    return where(some, np.float32(1) / iscale, _ZERO)


@jit
def encode_rows(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    p = np.empty((110, LANES), np.uint8)
    n_blocks = out.size // 110
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 256, x)
        if importance.size:
            load_importance_lanes(importance, block, n, 256, w)
        for h in range(0, n, VEC):
            encode_vector(x, w, importance.size > 0, p, h)
        store_lanes(p, out, block, n)


@jit
def decode_rows(blocks, out):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 110):
        block = raw[110 * b : 110 * b + 110]
        d = half_at(block, _D)
        for j in range(16):
            low = block[_SCALES + j % 8] >> (4 * (j // 8)) & 15
            scale = np.int32(low | (block[_SCALES + 8 + j % 4] >> (2 * (j // 4)) & 3) << 4) - np.int32(32)
            dj = d * np.float32(scale)
            q = block[_QS + 32 * (j // 8) + 16 * (j % 2) :]
            mask = block[_HMASK + 16 * (j % 2) :]
            for i in range(16):
                level = q[i] >> (2 * (j // 2 % 4)) & 3 | (mask[i] >> (j // 2) & 1) << 2
                y[256 * b + 16 * j + i] = dj * np.float32(np.int32(level) - np.int32(4))


KERNELS = {"Q3_K": Kernel(BY_NAME["Q3_K"], encode_rows, decode_rows, uses_importance=True)}
