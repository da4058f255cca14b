"""Q6_K: super-blocks of 16 sub-blocks of 16; weight = d*scale*(level - 32), levels of 6 bits, scales of 8."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_part
from .kscale import put_half
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .search import GROUP_MAX_EPS, largest, levels_qx, make_qx
from .simd import VEC, to_float, vload, vmax, vmin, vnearest, vstore, where

_ZERO = np.float32(0)
_QL, _QH, _SCALES, _D = 0, 128, 192, 208  # byte offsets in the block


@jit_part
def encode_vector(x, w, weighted, p, h):  # type: ignore[no-untyped-def]
    """The vector of blocks at lane ``h``, into their bytes ``p`` uint8 [210, LANES]."""
    aux = np.empty((16, LANES), np.float32)
    scales = np.empty((16, LANES), np.float32)
    level_iscale = np.empty((16, LANES), np.float32)
    levels = np.empty((256, LANES), np.uint8)
    if not weighted:
        for i in range(256):
            vstore(w, i, h, vload(x, i, h) * vload(x, i, h))
    for j in range(16):
        scale, iscale = make_qx(x, w, 16 * j, 16, h, 32, aux)
        vstore(scales, j, h, scale)
        vstore(level_iscale, j, h, iscale)
    extreme, amax = largest(scales, 0, 16, h)
    dead = amax < GROUP_MAX_EPS
    iscale = np.float32(-128) / extreme
    d = put_half(p, _D, h, where(dead, _ZERO, np.float32(1) / iscale))
    for j in range(16):
        as_int8 = vmin(127, vnearest(iscale * vload(scales, j, h))) << 24 >> 24
        scale = where(dead, 0, as_int8)
        vstore(p, _SCALES + j, h, scale)
        dj = d * to_float(scale)
        none = dj == _ZERO
        fallback = vload(level_iscale, j, h)
        for i in range(16 * j, 16 * j + 16):
            v = vload(x, i, h)
            level = vmax(-32, vmin(31, vnearest(v / dj))) + 32
            level = where(none, levels_qx(v, fallback, 32), level)
            vstore(levels, i, h, where(dead, 0, level))
    for half in range(2):
        for k in range(32):
            j = 128 * half + k
            q1, q2 = vload(levels, j, h), vload(levels, j + 32, h)
            q3, q4 = vload(levels, j + 64, h), vload(levels, j + 96, h)
            vstore(p, _QL + 64 * half + k, h, q1 & 15 | q3 << 4)
            vstore(p, _QL + 64 * half + 32 + k, h, q2 & 15 | q4 << 4)
            vstore(p, _QH + 32 * half + k, h, q1 >> 4 | q2 >> 4 << 2 | q3 >> 4 << 4 | q4 >> 4 << 6)


@jit
def encode_rows(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    p = np.empty((210, LANES), np.uint8)
    n_blocks = out.size // 210
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
    for b in range(raw.size // 210):
        block = raw[210 * b : 210 * b + 210]
        d = half_at(block, _D)
        for j in range(16):
            dj = d * np.float32(np.int8(block[_SCALES + j]))
            half, part = j // 8, j % 8  # a part is 16 of the half's 128 weights
            low = block[_QL + 64 * half + 16 * (part % 4) :]
            high = block[_QH + 32 * half + 16 * (part % 2) :]
            for i in range(16):
                level = low[i] >> (4 * (part // 4)) & 15 | (high[i] >> (2 * (part // 2)) & 3) << 4
                y[256 * b + 16 * j + i] = dj * np.float32(np.int32(level) - np.int32(32))


KERNELS = {"Q6_K": Kernel(BY_NAME["Q6_K"], encode_rows, decode_rows, uses_importance=True)}
