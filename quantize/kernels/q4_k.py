"""Q4_K: super-blocks of 8 sub-blocks of 32; weight = d*scale*level - dmin*min, levels of 4 bits, scales of 6."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit
from .kscale import encode_k4, scale_min
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .simd import VEC, vload, vstore


@jit
def encode_rows(src, code, importance, out):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    levels = np.empty((256, LANES), np.uint8)
    p = np.empty((144, LANES), np.uint8)
    n_blocks = out.size // 144
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 256, x)
        if importance.size:
            load_importance_lanes(importance, block, n, 256, w)
        for h in range(0, n, VEC):
            # The importance-weighted C does not cap the packed scales.
            encode_k4(x, w, importance.size > 0, 15, np.float32(-1), 20, 255, p, levels, h)
            for group in range(4):
                for i in range(32):
                    low = vload(levels, 64 * group + i, h)
                    vstore(p, 16 + 32 * group + i, h, low | vload(levels, 64 * group + 32 + i, h) << 4)
        store_lanes(p, out, block, n)


@jit
def decode_rows(blocks, out):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 144):
        block = raw[144 * b : 144 * b + 144]
        d, dmin = half_at(block, 0), half_at(block, 2)
        for j in range(8):
            scale, low = scale_min(block, j)
            dj, mj = d * np.float32(scale), dmin * np.float32(low)
            q = block[16 + 32 * (j // 2) :]
            shift = np.uint8(4 * (j % 2))
            for i in range(32):
                y[256 * b + 32 * j + i] = dj * np.float32(np.int32((q[i] >> shift) & np.uint8(15))) - mj


KERNELS = {"Q4_K": Kernel(BY_NAME["Q4_K"], encode_rows, decode_rows, uses_importance=True)}
