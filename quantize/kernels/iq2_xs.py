"""IQ2_XS and IQ2_S: groups of 8 magnitudes from a codebook, a 4-bit scale per 16 weights.

IQ2_XS has 512 points and seven stored signs to a group; IQ2_S has 1024 points and all eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit
from .grids import load_grid, signs_of_seven
from .lanes import half_at, load_importance_lanes, load_lanes, store_lanes
from .lattice import (
    FROM_IMPORTANCE,
    FROM_SQUARE_AND_MEAN,
    THOSE_OFF,
    finish,
    largest_scale,
    lattice,
    level_of_scale,
    mean_square,
    new_work,
    prepare,
    refine,
    search,
    store_u16,
    to_indices,
)
from .simd import VEC, half_bits, spread, vload, vstore, where

# GROUP_MAX_EPS and GROUP_MAX_EPS_IQ2_S of ggml-quants.c: sub-blocks whose largest magnitude is below are zeros.
EPS_XS, EPS_S = np.float32(1e-15), np.float32(1e-8)


@jit
def search_tile(work, book, x, w, n, rule, even_signs, eps):  # type: ignore[no-untyped-def]
    """Points, signs and scales of a tile of super-blocks."""
    live = np.empty((1, LANES), np.int32)
    for first in range(0, 256, 16):
        prepare(work, x, w, first, 16, rule, even_signs)
        for v in range(0, LANES, VEC):
            largest = vload(work.max, 0, v)
            vstore(live, 0, v, where(largest < eps, spread(np.int32(0)), 1))
            vstore(work.scale, 0, v, largest / np.float32(5))
            for group in range(2):
                vstore(work.best, group, v, spread(np.int32(0)))
        search(work, book, 16, n, 9, np.float32(0.1))
        refine(work, book, 16, n, THOSE_OFF)
        finish(work, book, first, 16, live, 127 if even_signs else 255)
    to_indices(work, book, 32)


@jit
def pack_scales(work, p, at_scales, fudge, v):  # type: ignore[no-untyped-def]
    """The super-block's scale into rows 0 and 1, the sub-blocks' into rows ``at_scales`` on."""
    largest = largest_scale(work, 16, v)
    d = largest / np.float32(31)
    store_u16(p, 0, where(largest != 0, half_bits(d * fudge), 0), v)
    inverse = np.float32(1) / d
    for j in range(8):
        low = level_of_scale(work, 2 * j, inverse, 15, v)
        high = level_of_scale(work, 2 * j + 1, inverse, 15, v)
        vstore(p, at_scales + j, v, where(largest != 0, low | high << 4, 0))


@jit
def _encode_xs(src, code, importance, out, book):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    p = np.empty((74, LANES), np.uint8)
    work = new_work()
    n_blocks = out.size // 74
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 256, x)
        load_importance_lanes(importance, block, n, 256, w)
        mean_square(x, 1, work.sigma2)
        search_tile(work, book, x, w, n, FROM_IMPORTANCE, True, EPS_XS)
        for v in range(0, LANES, VEC):
            some = largest_scale(work, 16, v) != 0
            for k in range(32):
                store_u16(p, 2 + 2 * k, where(some, vload(work.codes, k, v) | vload(work.signs, k, v) << 9, 0), v)
            pack_scales(work, p, 66, np.float32(1), v)
        store_lanes(p, out, block, n)


@jit
def _encode_s(src, code, importance, out, book):  # type: ignore[no-untyped-def]
    x = np.empty((256, LANES), np.float32)
    w = np.empty((256, LANES), np.float32)
    p = np.empty((82, LANES), np.uint8)
    work = new_work()
    n_blocks = out.size // 82
    rule = FROM_IMPORTANCE if importance.size else FROM_SQUARE_AND_MEAN
    for block in range(0, n_blocks, LANES):
        n = min(LANES, n_blocks - block)
        load_lanes(src, code, block, n, 256, x)
        if importance.size:
            load_importance_lanes(importance, block, n, 256, w)
        mean_square(x, 2, work.sigma2)
        search_tile(work, book, x, w, n, rule, False, EPS_S)
        for v in range(0, LANES, VEC):
            for j in range(8):
                high = spread(np.int32(0))
                for k in range(4):
                    index = vload(work.codes, 4 * j + k, v)
                    vstore(p, 2 + 4 * j + k, v, index & 255)
                    vstore(p, 34 + 4 * j + k, v, vload(work.signs, 4 * j + k, v))
                    high = high | index >> 8 << (2 * k)
                vstore(p, 66 + j, v, high)
            pack_scales(work, p, 74, np.float32(0.9875), v)
        store_lanes(p, out, block, n)


@jit
def _decode_xs(blocks, out, values, all_signs):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 74):
        block = raw[74 * b : 74 * b + 74]
        d = half_at(block, 0)
        for k in range(32):
            scale = block[66 + k // 4] >> np.uint8(k // 2 % 2 * 4) & np.uint8(15)
            db = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
            q = np.int64(block[2 + 2 * k]) | np.int64(block[3 + 2 * k]) << 8
            signs = all_signs[q >> 9]
            for i in range(8):
                y[256 * b + 8 * k + i] = db * values[q & 511, i] * np.float32(1 - 2 * (signs >> i & 1))


@jit
def _decode_s(blocks, out, values):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 82):
        block = raw[82 * b : 82 * b + 82]
        d = half_at(block, 0)
        for k in range(32):
            scale = block[74 + k // 4] >> np.uint8(k // 2 % 2 * 4) & np.uint8(15)
            db = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
            index = np.int64(block[2 + k]) | (np.int64(block[66 + k // 4]) >> (2 * (k % 4)) & 3) << 8
            signs = np.int64(block[34 + k])
            for i in range(8):
                y[256 * b + 8 * k + i] = db * values[index, i] * np.float32(1 - 2 * (signs >> i & 1))


def encode_xs(src: Any, code: int, importance: Any, out: Any) -> None:
    _encode_xs(src, code, importance, out, lattice("iq2_xs"))


def decode_xs(blocks: Any, out: Any) -> None:
    _decode_xs(blocks, out, load_grid("iq2_xs").values, signs_of_seven())


def encode_s(src: Any, code: int, importance: Any, out: Any) -> None:
    _encode_s(src, code, importance, out, lattice("iq2_s"))


def decode_s(blocks: Any, out: Any) -> None:
    _decode_s(blocks, out, load_grid("iq2_s").values)


KERNELS = {
    "IQ2_XS": Kernel(BY_NAME["IQ2_XS"], encode_xs, decode_xs, uses_importance=True, requires_importance=True),
    "IQ2_S": Kernel(BY_NAME["IQ2_S"], encode_s, decode_s, uses_importance=True),
}
