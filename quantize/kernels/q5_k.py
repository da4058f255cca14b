"""Q5_K: Q4_K with levels of 5 bits, the fifth in ``qh``."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit
from .kscale import encode_k4, scale_min
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .simd import VEC, spread, vload, vstore


@jit
def encode_rows(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    levels = np.empty((256, LANES), np.uint8)
    p = np.empty((176, LANES), np.uint8)
    n_blocks = out.size // 176
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 256, x)
        if importance.size:
            load_importance_lanes(importance, block, n, 256, w)
        for h in range(0, n, VEC):
            encode_k4(x, w, importance.size > 0, 31, np.float32(-0.5), 15, 63, p, levels, h)
            for i in range(32):
                high = spread(0)
                for j in range(8):
                    high = high | (vload(levels, 32 * j + i, h) >> 4) << j
                vstore(p, 16 + i, h, high)
                for group in range(4):
                    low = vload(levels, 64 * group + i, h) & 15
                    vstore(p, 48 + 32 * group + i, h, low | vload(levels, 64 * group + 32 + i, h) << 4)
        store_lanes(p, out, block, n)


@jit
def decode_rows(blocks, out):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 176):
        block = raw[176 * b : 176 * b + 176]
        d, dmin = half_at(block, 0), half_at(block, 2)
        for j in range(8):
            scale, low = scale_min(block, j)
            dj, mj = d * np.float32(scale), dmin * np.float32(low)
            q = block[48 + 32 * (j // 2) :]
            for i in range(32):
                level = (q[i] >> (4 * (j % 2))) & 15 | ((block[16 + i] >> j) & 1) << 4
                y[256 * b + 32 * j + i] = dj * np.float32(np.int32(level)) - mj


KERNELS = {"Q5_K": Kernel(BY_NAME["Q5_K"], encode_rows, decode_rows, uses_importance=True)}
