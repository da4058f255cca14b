"""Q2_K: super-blocks of 16 sub-blocks of 16; weight = d*scale*level - dmin*min, levels of 2 bits, scales of 4."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_part
from .kscale import put_crumbs, put_half, square_sum, weigh
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .search import levels_qkx, make_qkx, make_qp
from .simd import VEC, spread, to_float, vabs, vload, vmax, vmin, vnearest, vstore, where

_ZERO = np.float32(0)
_SCALES, _QS, _D = 0, 16, 80  # byte offsets in the block


@jit_part
def encode_vector(x, w, weighted, p, h):  # type: ignore[no-untyped-def]
    """The vector of blocks at lane ``h``, into their bytes ``p`` uint8 [84, LANES]."""
    aux = np.empty((16, LANES), np.float32)
    scales = np.empty((16, LANES), np.float32)
    mins = np.empty((16, LANES), np.float32)
    sum_w = np.empty((16, LANES), np.float32)
    level_iscale = np.empty((16, LANES), np.float32)
    level_min = np.empty((16, LANES), np.float32)
    ls = np.empty((16, LANES), np.uint8)
    lm = np.empty((16, LANES), np.uint8)
    levels = np.empty((256, LANES), np.uint8)
    sigma2 = spread(_ZERO)
    rmin, step, nstep = np.float32(-0.5), np.float32(0.1), 15
    if weighted:
        sigma2 = square_sum(x, 0, 256, h) / np.float32(256)
        rmin, step, nstep = np.float32(-0.9), np.float32(0.05), 36
    for j in range(16):
        r = 16 * j
        if weighted:
            vstore(sum_w, j, h, weigh(x, w, r, 16, h, sigma2))
        else:
            for i in range(r, r + 16):
                vstore(w, i, h, vabs(vload(x, i, h)))
        found = make_qkx(x, w, r, 16, h, 3, rmin, step, nstep, not weighted, aux)
        vstore(scales, j, h, found[0])
        vstore(mins, j, h, _ZERO - found[1])
        vstore(level_iscale, j, h, found[2])
        vstore(level_min, j, h, found[3])
    if weighted:
        d = make_qp(scales, sum_w, 16, h, 15, ls)
        dmin = make_qp(mins, sum_w, 16, h, 15, lm)
    else:
        d = round_scales(scales, ls, h)
        dmin = round_scales(mins, lm, h)
    d = put_half(p, _D, h, d)
    dmin = put_half(p, _D + 2, h, dmin)
    for j in range(16):
        both = (vload(ls, j, h) | vload(lm, j, h) << 4) & 255
        vstore(p, _SCALES + j, h, both)
        dj = d * to_float(both & 15)
        mj = dmin * to_float(both >> 4)
        none = dj == _ZERO
        iscale = vload(level_iscale, j, h)
        base = vload(level_min, j, h)
        for i in range(16 * j, 16 * j + 16):
            v = vload(x, i, h)
            level = vmax(0, vmin(3, vnearest((v + mj) / dj)))
            vstore(levels, i, h, where(none, levels_qkx(v, iscale, base, 3), level))
    put_crumbs(levels, p, _QS, h)


@jit
def round_scales(scales, ls, h):  # type: ignore[no-untyped-def]
    """The plain rounding of sixteen sub-block scales to 4 bits (uncapped bytes) and their scale."""
    top = spread(_ZERO)
    for j in range(16):
        top = vmax(vload(scales, j, h), top)
    some = top > _ZERO
    inverse = np.float32(15) / top
    for j in range(16):
        vstore(ls, j, h, where(some, vnearest(inverse * vload(scales, j, h)), 0))
    return where(some, top / np.float32(15), _ZERO)


@jit
def encode_rows(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    p = np.empty((84, LANES), np.uint8)
    n_blocks = out.size // 84
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
    for b in range(raw.size // 84):
        block = raw[84 * b : 84 * b + 84]
        d, dmin = half_at(block, _D), half_at(block, _D + 2)
        for j in range(16):
            scale = block[_SCALES + j]
            dj, mj = d * np.float32(scale & 15), dmin * np.float32(scale >> 4)
            q = block[_QS + 32 * (j // 8) + 16 * (j % 2) :]
            shift = 2 * (j // 2 % 4)
            for i in range(16):
                y[256 * b + 16 * j + i] = dj * np.float32(np.int32((q[i] >> shift) & 3)) - mj


KERNELS = {"Q2_K": Kernel(BY_NAME["Q2_K"], encode_rows, decode_rows, uses_importance=True)}
