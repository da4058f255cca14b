"""IQ1_S and IQ1_M: groups of 8 values -1, 0 or 1 from a codebook of 2048 points, all shifted by 1/8 up or down, and a
3-bit scale. IQ1_S has a scale and a shift per 32 weights; IQ1_M a scale per 16 weights and a shift per 8.

The C sorts a sub-block by value and tries every way to cut the order in three, with every shift, over prefix sums; here
that runs over lanes. Its ``qsort`` compares values only. glibc's is a merge sort, so equal values keep their order in
the row, and so they do here, whatever the platform; with another C library llama.cpp's own bytes may differ where
values are equal. Not-a-numbers and infinities, on which the C aborts, give bytes without meaning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_inline, jit_part
from .codebooks import load_codebook
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .lattice import OFF, POINT, lattice, store_u16
from .nearest import nearest_of_three
from .simd import VEC, half_bits, spread, to_float, vabs, vload, vmax, vmin, vnearest, vneg, vsqrt, vstore, where

DELTA = np.float32(0.125)  # IQ1S_DELTA and IQ1M_DELTA of ggml-common.h
_LOWEST = np.float32(-3.4028234663852886e38)
_EPS_S, _EPS_M = np.float32(1e-12), np.float32(1e-7)  # GROUP_MAX_EPS_IQ1_S, GROUP_MAX_EPS_IQ1_M of ggml-quants.c


class Work(NamedTuple):
    """The state of a tile; the last axis is the lane unless said. A sub-block has 32 or 16 weights, taken in order or
    sorted."""

    rows: Any  # f32 [256, L]
    importance: Any  # f32 [256, L]
    packed: Any  # u8 [bytes of a super-block, L]
    sigma2: Any  # f32 [1, L] twice the mean square of the super-block
    weight: Any  # f32 [256, L]
    rank: Any  # i32 [32, L] an element's place in the order
    sorted: Any  # f32 [4, 33, L] sorted products with x and weights, of IQ1_M's two halves; then their prefix sums
    points: Any  # f32 [L, 32] the sub-block, an element's neighbours side by side
    weights: Any  # f32 [L, 32] its weights likewise
    upper: Any  # f32 [4, 33, L] the part of a score that hangs on the upper cut alone
    cut: Any  # i32 [3, L] the best cuts and shifts
    scale: Any  # f32 [1, L] of the sub-block
    code: Any  # i32 [32, L] packed points of the super-block
    shift: Any  # i32 [32, L] whether a group is shifted down
    scales: Any  # f32 [16, L]


def new_work(block_bytes: int) -> Work:
    """Scratch for one call of an encoder. Made outside compiled code, where it costs no compile time."""

    def floats(*shape: int) -> Any:
        return np.zeros((*shape, LANES), np.float32)

    def ints(*shape: int) -> Any:
        return np.zeros((*shape, LANES), np.int32)

    groups = np.zeros((2, LANES, 32), np.float32)
    return Work(
        *(floats(256), floats(256), np.zeros((block_bytes, LANES), np.uint8), floats(1), floats(256), ints(32)),
        *(floats(4 * 33), groups[0], groups[1], floats(4 * 33), ints(3), floats(1), ints(32), ints(32), floats(16)),
    )


@jit
def _load(src, code, importance, block, n, work):  # type: ignore[no-untyped-def]
    """Load a tile's super-blocks and their weights."""
    load_lanes(src, code, block, n, 256, work.rows)
    load_importance_lanes(importance, block, n, 256, work.importance)
    for v in range(0, LANES, VEC):
        total = spread(np.float32(0))
        for i in range(256):
            x = vload(work.rows, i, v)
            total = total + x * x
        sigma2 = total * np.float32(2) / np.float32(256)
        for i in range(256):
            x = vload(work.rows, i, v)
            vstore(work.weight, i, v, vload(work.importance, i, v) * vsqrt(sigma2 + x * x))


@jit
def _sort(work, first, size, halves):  # type: ignore[no-untyped-def]
    """Rank a sub-block's elements; sort products and weights into rows 1 .. of ``sorted`` and sum them up.

    With ``halves`` == 2 the elements of either half have sums of their own.
    """
    for v in range(0, LANES, VEC):
        for j in range(size):
            x = vload(work.rows, first + j, v)
            rank = spread(np.int32(0))
            for i in range(j):
                rank = rank + where(vload(work.rows, first + i, v) <= x, spread(np.int32(1)), 0)
            for i in range(j + 1, size):
                rank = rank + where(vload(work.rows, first + i, v) < x, spread(np.int32(1)), 0)
            vstore(work.rank, j, v, rank)
    for row in range(2 * halves * 33):
        for lane in range(LANES):
            work.sorted[row, lane] = np.float32(0)
    for i in range(size):
        half = 66 * (i * halves // size)
        for lane in range(LANES):
            x, weight = work.rows[first + i, lane], work.weight[first + i, lane]
            place = half + 1 + work.rank[i, lane]
            work.sorted[place, lane] = weight * x
            work.sorted[place + 33, lane] = weight
            work.points[lane, i] = x
            work.weights[lane, i] = weight
    for table in range(2 * halves):
        for v in range(0, LANES, VEC):
            total = spread(np.float32(0))
            for j in range(1, size + 1):
                total = total + vload(work.sorted, 33 * table + j, v)
                vstore(work.sorted, 33 * table + j, v, total)


@jit_part
def _cut_s(work):  # type: ignore[no-untyped-def]
    """The best two cuts and the shift of 32 sorted elements, and their scale."""
    for v in range(0, LANES, VEC):
        sumx, sumw = vload(work.sorted, 32, v), vload(work.sorted, 33 + 32, v)
        for i in range(33):
            dx, dw = sumx - vload(work.sorted, i, v), sumw - vload(work.sorted, 33 + i, v)
            vstore(work.upper, i, v, dx * np.float32(1.125))
            vstore(work.upper, 33 + i, v, dw * np.float32(1.125) * np.float32(1.125))
            vstore(work.upper, 66 + i, v, dx * np.float32(0.875))
            vstore(work.upper, 99 + i, v, dw * np.float32(0.875) * np.float32(0.875))
        best = spread(_LOWEST)
        scale = spread(np.float32(0))
        cut = spread(np.int32(-1))
        for i1 in range(33):
            x1, w1 = vload(work.sorted, i1, v), vload(work.sorted, 33 + i1, v)
            x_up, w_up = x1 * np.float32(-0.875), w1 * np.float32(-0.875) * np.float32(-0.875)
            x_down, w_down = x1 * np.float32(-1.125), w1 * np.float32(-1.125) * np.float32(-1.125)
            for i2 in range(i1, 33):
                dx = (vload(work.sorted, i2, v) - x1) * DELTA
                dw = (vload(work.sorted, 33 + i2, v) - w1) * DELTA * DELTA
                sumqx = x_up + dx + vload(work.upper, i2, v)
                sumq2 = w_up + dw + vload(work.upper, 33 + i2, v)
                better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
                this = sumqx / sumq2
                scale = where(better, this, scale)
                best = where(better, this * sumqx, best)
                cut = where(better, spread(np.int32(i1 << 8 | i2 << 2)), cut)
                sumqx = x_down - dx + vload(work.upper, 66 + i2, v)
                sumq2 = w_down + dw + vload(work.upper, 99 + i2, v)
                better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
                this = sumqx / sumq2
                scale = where(better, this, scale)
                best = where(better, this * sumqx, best)
                cut = where(better, spread(np.int32(i1 << 8 | i2 << 2 | 3)), cut)
        vstore(work.cut, 0, v, cut)
        vstore(work.scale, 0, v, scale)


@jit_part
def _cut_m(work):  # type: ignore[no-untyped-def]
    """The best two cuts and the two halves' shifts of 16 sorted elements, and their scale.

    Levels a step apart make a sum over three parts collapse to total * top level - prefix - prefix.
    """
    for v in range(0, LANES, VEC):
        for i in range(17):
            for h in range(2):
                w = vload(work.sorted, 66 * h + 33 + i, v)
                vstore(work.upper, 66 * h + i, v, w * np.float32(-1.25))
                vstore(work.upper, 66 * h + 33 + i, v, w * np.float32(-0.75))
        x0, x1 = vload(work.sorted, 16, v), vload(work.sorted, 66 + 16, v)
        w0, w1 = vload(work.sorted, 33 + 16, v), vload(work.sorted, 99 + 16, v)
        x0_up, x0_down = x0 * np.float32(1.125), x0 * np.float32(0.875)
        x1_up, x1_down = x1 * np.float32(1.125), x1 * np.float32(0.875)
        w0_up, w0_down = w0 * np.float32(1.125) * np.float32(1.125), w0 * np.float32(0.875) * np.float32(0.875)
        w1_up, w1_down = w1 * np.float32(1.125) * np.float32(1.125), w1 * np.float32(0.875) * np.float32(0.875)
        best = spread(_LOWEST)
        scale = spread(np.float32(0))
        cut = spread(np.int32(-1))
        for i1 in range(17):
            p0, p1 = vload(work.sorted, i1, v), vload(work.sorted, 66 + i1, v)
            q0, q1 = vload(work.sorted, 33 + i1, v), vload(work.sorted, 99 + i1, v)
            low0_up, low0_down = w0_up + q0 * np.float32(0.75), w0_down + q0 * np.float32(1.25)
            low1_up, low1_down = w1_up + q1 * np.float32(0.75), w1_down + q1 * np.float32(1.25)
            for i2 in range(i1, 17):
                s0, s1 = p0 + vload(work.sorted, i2, v), p1 + vload(work.sorted, 66 + i2, v)
                for k in range(4):
                    sumqx = (x0_up if k < 2 else x0_down) - s0 + ((x1_up if k % 2 == 0 else x1_down) - s1)
                    high0 = vload(work.upper, i2 if k < 2 else 33 + i2, v)
                    high1 = vload(work.upper, 66 + i2 if k % 2 == 0 else 99 + i2, v)
                    sumq2 = (low0_up if k < 2 else low0_down) + high0 + ((low1_up if k % 2 == 0 else low1_down) + high1)
                    better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
                    this = sumqx / sumq2
                    scale = where(better, this, scale)
                    best = where(better, this * sumqx, best)
                    cut = where(better, spread(np.int32(i1 << 8 | i2 << 2 | k)), cut)
        vstore(work.cut, 0, v, cut)
        vstore(work.scale, 0, v, scale)


@jit_inline
def _sign_of_shift(shift):  # type: ignore[no-untyped-def]
    """Return what is added to -1, 0, 1: + DELTA, or - DELTA for a group shifted down."""
    return where(shift != 0, spread(-DELTA), DELTA)


@jit
def _place(work, codebook, n, first, size, eps):  # type: ignore[no-untyped-def]
    """Turn cuts into points of the codebook: ``code``, ``shift`` and ``scales`` of the sub-block.

    ``cut`` holds i1 << 8 | i2 << 2 | the first half's shift << 1 | the second's, or is negative.
    """
    groups = size // 8
    at = first // 8
    for v in range(0, LANES, VEC):
        cut, scale = vload(work.cut, 0, v), vload(work.scale, 0, v)
        largest = spread(np.float32(0))
        for i in range(size):
            largest = vmax(largest, vabs(vload(work.rows, first + i, v)))
        dead = (largest < eps) | (cut < 0)
        i1, i2 = cut >> 8, cut >> 2 & 63
        for k in range(groups):
            point = spread(np.int32(0))
            for i in range(8):
                rank = vload(work.rank, 8 * k + i, v)
                level = where(rank >= i1, spread(np.int32(1)), 0) + where(rank >= i2, spread(np.int32(1)), 0)
                point = point | where(scale < 0, 2 - level, level) << (2 * i)
            down = (cut >> 1 if k < groups // 2 else cut) & 1
            down = where(scale < 0, 1 - down, down)
            vstore(work.code, at + k, v, where(dead, spread(np.int32(0)), point))
            vstore(work.shift, at + k, v, where(dead, spread(np.int32(0)), down))
        vstore(work.scale, 0, v, where(dead, spread(np.float32(0)), where(scale < 0, vneg(scale), scale)))
        vstore(work.cut, 1, v, where(dead, spread(np.int32(0)), 1))
    for k in range(groups):
        for lane in range(n):
            slot = codebook.slot[work.code[at + k, lane]]
            if slot and work.cut[1, lane]:
                scale = work.scale[0, lane]
                delta = -DELTA if work.shift[at + k, lane] else DELTA
                low, middle, high = scale * (delta - np.float32(1)), scale * delta, scale * (delta + np.float32(1))
                point = nearest_of_three(
                    work.points, work.weights, 32 * lane + 8 * k, low, middle, high, codebook.near, slot
                )
                work.code[at + k, lane] = point | OFF
    for v in range(0, LANES, VEC):
        off = spread(np.int32(0))
        sumqx = spread(np.float32(0))
        sumq2 = spread(np.float32(0))
        for k in range(groups):
            point = vload(work.code, at + k, v)
            off = off | point
            delta = _sign_of_shift(vload(work.shift, at + k, v))
            for i in range(8):
                q = to_float((point >> (2 * i) & 3) - 1) + delta
                wq = vload(work.weight, first + 8 * k + i, v) * q
                sumqx = sumqx + wq * vload(work.rows, first + 8 * k + i, v)
                sumq2 = sumq2 + wq * q
            vstore(work.code, at + k, v, point & POINT)
        fitted = ((off & OFF) != 0) & (sumqx > 0) & (sumq2 > 0)
        vstore(work.scales, first // size, v, where(fitted, sumqx / sumq2, vload(work.scale, 0, v)))


@jit_inline
def _level(work, j, inverse, v):  # type: ignore[no-untyped-def]
    """Sub-block ``j``'s scale as the integer l of ``d * (2 * l + 1)``, three bits."""
    return vmax(vmin(vnearest((inverse * vload(work.scales, j, v) - 1) * np.float32(0.5)), 7), 0)


@jit_part
def _pack_s(work, codebook):  # type: ignore[no-untyped-def]
    """50 bytes: d, 32 low index bytes, 8 words of 4 x 3 high index bits, 3 scale bits and the shift."""
    for k in range(32):
        for lane in range(LANES):
            work.code[k, lane] = codebook.index_of[work.code[k, lane]]
    for v in range(0, LANES, VEC):
        largest = spread(np.float32(0))
        for j in range(8):
            largest = vmax(largest, vload(work.scales, j, v))
        d = largest / np.float32(15)
        store_u16(work.packed, 0, where(largest != 0, half_bits(d * np.float32(1.125)), 0), v)
        for j in range(8):
            level = _level(work, j, np.float32(1) / d, v) | vload(work.shift, 4 * j, v) << 3
            word = where(largest != 0, level << 12, 0)
            for k in range(4):
                index = vload(work.code, 4 * j + k, v)
                vstore(work.packed, 2 + 4 * j + k, v, index)
                word = word | index >> 8 << (3 * k)
            store_u16(work.packed, 34 + 2 * j, word, v)


@jit_part
def _pack_m(work, codebook):  # type: ignore[no-untyped-def]
    """56 bytes: 32 low index bytes, 16 x 2 x (3 high index bits, the shift), 4 words of 4 x 3 scale bits and 4 of d."""
    for v in range(0, LANES, VEC):
        largest = spread(np.float32(0))
        for j in range(16):
            largest = vmax(largest, vload(work.scales, j, v))
        some = largest != 0
        d = largest / np.float32(15)
        inverse = np.float32(1) / d
        sumqx = spread(np.float32(0))
        sumq2 = spread(np.float32(0))
        for k in range(32):
            step = to_float(_level(work, k // 2, inverse, v) * 2 + 1)
            point, delta = vload(work.code, k, v), _sign_of_shift(vload(work.shift, k, v))
            for i in range(8):
                q = (to_float((point >> (2 * i) & 3) - 1) + delta) * step
                wq = vload(work.weight, 8 * k + i, v) * q
                sumqx = sumqx + wq * vload(work.rows, 8 * k + i, v)
                sumq2 = sumq2 + wq * q
        d = where(sumq2 > 0, sumqx / sumq2, d)
        bits = half_bits(d * np.float32(1.1125))
        for j in range(4):
            word = (bits >> (4 * j) & 15) << 12
            for i in range(4):
                word = word | _level(work, 4 * j + i, inverse, v) << (3 * i)
            store_u16(work.packed, 48 + 2 * j, where(some, word, 0), v)
        for k in range(32):
            vstore(work.shift, k, v, where(some, vload(work.shift, k, v), 0))
    for k in range(32):
        for lane in range(LANES):
            work.code[k, lane] = codebook.index_of[work.code[k, lane]]
    for v in range(0, LANES, VEC):
        for j in range(16):
            index0, index1 = vload(work.code, 2 * j, v), vload(work.code, 2 * j + 1, v)
            vstore(work.packed, 2 * j, v, index0)
            vstore(work.packed, 2 * j + 1, v, index1)
            low = index0 >> 8 | vload(work.shift, 2 * j, v) << 3
            vstore(work.packed, 32 + j, v, low | index1 >> 8 << 4 | vload(work.shift, 2 * j + 1, v) << 7)


@jit
def _encode_s(src, code, importance, out, codebook, work):  # type: ignore[no-untyped-def]
    n_blocks = out.size // 50
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        _load(src, code, importance, block, n, work)
        for first in range(0, 256, 32):
            _sort(work, first, 32, 1)
            _cut_s(work)
            _place(work, codebook, n, first, 32, _EPS_S)
        _pack_s(work, codebook)
        store_lanes(work.packed, out, block, n)


@jit
def _encode_m(src, code, importance, out, codebook, work):  # type: ignore[no-untyped-def]
    n_blocks = out.size // 56
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        _load(src, code, importance, block, n, work)
        for first in range(0, 256, 16):
            _sort(work, first, 16, 2)
            _cut_m(work)
            _place(work, codebook, n, first, 16, _EPS_M)
        _pack_m(work, codebook)
        store_lanes(work.packed, out, block, n)


@jit
def _decode_s(blocks, out, values):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 50):
        block = raw[50 * b : 50 * b + 50]
        d = half_at(block, 0)
        for k in range(32):
            word = np.int64(block[34 + k // 4 * 2]) | np.int64(block[35 + k // 4 * 2]) << 8
            dl = d * np.float32(2 * (word >> 12 & 7) + 1)
            delta = -DELTA if word & 0x8000 else DELTA
            index = np.int64(block[2 + k]) | (word >> (3 * (k % 4)) & 7) << 8
            for i in range(8):
                y[256 * b + 8 * k + i] = dl * (values[index, i] + delta)


@jit
def _decode_m(blocks, out, values):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    half = np.empty(2, np.uint8)
    for b in range(raw.size // 56):
        block = raw[56 * b : 56 * b + 56]
        half[0] = block[49] >> np.uint8(4) | (block[51] >> np.uint8(4)) << np.uint8(4)
        half[1] = block[53] >> np.uint8(4) | (block[55] >> np.uint8(4)) << np.uint8(4)
        d = half_at(half, 0)
        for k in range(32):
            word = np.int64(block[48 + k // 8 * 2]) | np.int64(block[49 + k // 8 * 2]) << 8
            dl = d * np.float32(2 * (word >> (3 * (k // 2 % 4)) & 7) + 1)
            high = np.int64(block[32 + k // 2]) >> (4 * (k % 2))
            delta = -DELTA if high & 8 else DELTA
            index = np.int64(block[k]) | (high & 7) << 8
            for i in range(8):
                y[256 * b + 8 * k + i] = dl * (values[index, i] + delta)


def encode_s(src: Any, code: int, importance: Any, out: Any) -> None:
    _encode_s(src, code, importance, out, lattice("iq1"), new_work(50))


def decode_s(blocks: Any, out: Any) -> None:
    _decode_s(blocks, out, load_codebook("iq1").values)


def encode_m(src: Any, code: int, importance: Any, out: Any) -> None:
    _encode_m(src, code, importance, out, lattice("iq1"), new_work(56))


def decode_m(blocks: Any, out: Any) -> None:
    _decode_m(blocks, out, load_codebook("iq1").values)


KERNELS = {
    "IQ1_S": Kernel(BY_NAME["IQ1_S"], encode_s, decode_s, uses_importance=True, requires_importance=True),
    "IQ1_M": Kernel(BY_NAME["IQ1_M"], encode_m, decode_m, uses_importance=True, requires_importance=True),
}
