"""Q1_0 and Q2_0: signs under the mean magnitude of 128, and two bits under the largest magnitude of 64.

Source: ``quantize_row_q1_0_ref`` and ``quantize_row_q2_0_ref`` in ggml-quants.c. In Q2_0 a block whose largest
magnitude is below 2**-128 has an infinite inverse scale; converting the infinities and NaNs to int is undefined in C,
on x86-64 it gives INT_MIN, which is clamped to level 0. The reference never produces level 3.
"""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, bits_to_float, float_to_bits, jit, jit_inline
from .lanes import half_at, load_floats, load_lanes, store_half


@jit
def _encode_q1_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 18)
    X = np.empty((128, LANES), np.float32)
    total = np.empty(LANES, np.float32)
    signs = np.empty((16, LANES), np.uint8)
    for first in range(0, len(blocks), LANES):
        n = min(LANES, len(blocks) - first)
        load_lanes(src, code, first, n, 128, X)
        total[:] = 0
        for j in range(128):
            for lane in range(LANES):
                total[lane] += abs(X[j, lane])
        for i in range(16):
            for lane in range(LANES):
                byte = np.int32(0)
                for bit in range(8):
                    byte |= np.int32(1 << bit) if X[8 * i + bit, lane] >= np.float32(0) else np.int32(0)
                signs[i, lane] = np.uint8(byte)
        for lane in range(n):
            store_half(blocks[first + lane], 0, total[lane] / np.float32(128))
            for i in range(16):
                blocks[first + lane, 2 + i] = signs[i, lane]


@jit_inline
def _level(x):  # type: ignore[no-untyped-def]
    """``roundf(x) + 1`` for |x| < 1.5: halves go away from zero."""
    up = np.int32(1) if x >= np.float32(0.5) else np.int32(0)
    down = np.int32(1) if x <= np.float32(-0.5) else np.int32(0)
    return np.int32(np.int32(np.int32(1) + up) - down)


@jit
def _encode_q2_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 18)
    x = np.empty(64, np.float32)
    levels = np.empty(64, np.uint8)
    for b in range(len(blocks)):
        load_floats(src, code, b * 64, x)
        bits = np.int32(0)
        for j in range(64):
            bits = max(bits, np.int32(float_to_bits(x[j]) & np.int32(0x7FFFFFFF)))
        d = bits_to_float(bits)
        inverse = np.float32(1) / d if bits > 0 else np.float32(0)
        if inverse == np.float32(np.inf):
            levels[:] = 0
        else:
            for j in range(64):
                levels[j] = np.uint8(_level(x[j] * inverse))
        store_half(blocks[b], 0, d)
        for i in range(16):
            q = levels[4 * i] | (levels[4 * i + 1] << 2) | (levels[4 * i + 2] << 4) | (levels[4 * i + 3] << 6)
            blocks[b, 2 + i] = np.uint8(q)


@jit
def _decode_q1_0(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 18)
    weights = out.reshape(-1, 16, 8)
    for b in range(len(source)):
        d = half_at(source[b], 0)
        for i in range(16):
            byte = np.int32(source[b, 2 + i])
            for bit in range(8):
                weights[b, i, bit] = d if byte & np.int32(1 << bit) else -d


@jit
def _decode_q2_0(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 18)
    weights = out.reshape(-1, 16, 4)
    for b in range(len(source)):
        d = half_at(source[b], 0)
        for i in range(16):
            byte = np.int32(source[b, 2 + i])
            for k in range(4):
                q = (byte >> np.int32(2 * k)) & np.int32(3)
                weights[b, i, k] = np.float32(np.int32(q - 1)) * d


KERNELS = {
    "Q1_0": Kernel(BY_NAME["Q1_0"], _encode_q1_0, _decode_q1_0),
    "Q2_0": Kernel(BY_NAME["Q2_0"], _encode_q2_0, _decode_q2_0),
}
