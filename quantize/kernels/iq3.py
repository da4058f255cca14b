"""IQ3_XXS and IQ3_S: groups of 4 magnitudes from a codebook, a 4-bit scale per 32 weights.

IQ3_XXS has 256 points and seven stored signs to eight weights; IQ3_S has 512 points and all eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_inline
from .codebooks import load_codebook, signs_of_seven
from .lanes import half_at, store_lanes
from .lattice import ALL_IF_OFF, THOSE_OFF, Method, encode, largest_scale, lattice, level_of_scale, store_u16
from .simd import VEC, half_bits, spread, vload, vstore, where

_XXS = Method(
    size=32,
    sigma2_factor=2,
    square_and_mean=False,
    even_signs=True,
    eps=np.float32(1e-8),  # GROUP_MAX_EPS_IQ3_XXS of ggml-quants.c
    fit_first=False,
    steps=15,
    step=np.float32(0.2),
    again=THOSE_OFF,
)
_S = _XXS._replace(even_signs=False, eps=np.float32(0), steps=9, again=ALL_IF_OFF)


@jit
def _pack_xxs(found, packed, first, n_blocks, out):  # type: ignore[no-untyped-def]
    for tile in range((n_blocks + LANES - 1) // LANES):
        for v in range(0, LANES, VEC):
            largest = largest_scale(found, tile, 8, v)
            some = largest != 0
            d = largest / np.float32(31)
            store_u16(packed, 0, where(some, half_bits(d * np.float32(1.0125)), 0), v)
            for k in range(64):
                vstore(packed, 2 + k, v, where(some, vload(found.codes, 64 * tile + k, v), 0))
            for j in range(8):
                word = level_of_scale(found, 16 * tile + j, np.float32(1) / d, v) << 28
                for k in range(4):
                    word = word | vload(found.signs, 32 * tile + 4 * j + k, v) << (7 * k)
                word = where(some, word, 0)
                store_u16(packed, 66 + 4 * j, word, v)
                store_u16(packed, 68 + 4 * j, word >> 16, v)
        store_lanes(packed, out, first + tile * LANES, min(LANES, n_blocks - tile * LANES))


@jit_inline
def _close_gaps(found, packed, tile):  # type: ignore[no-untyped-def]
    """Move the points and signs of IQ3_S towards the front, past sub-blocks of zeros.

    ``quantize_row_iq3_s_impl`` moves its ``qs`` and ``signs`` on only behind sub-blocks that are not all zeros, though
    not so ``qh`` and the scales. What follows a zero sub-block decodes wrongly; the bytes are llama.cpp's.
    """
    for lane in range(LANES):
        place = 0
        for j in range(8):
            if found.live[16 * tile + j, lane]:
                if place < j:
                    for i in range(8):
                        packed[2 + 8 * place + i, lane] = packed[2 + 8 * j + i, lane]
                        packed[2 + 8 * j + i, lane] = 0
                    for i in range(4):
                        packed[74 + 4 * place + i, lane] = packed[74 + 4 * j + i, lane]
                        packed[74 + 4 * j + i, lane] = 0
                place += 1


@jit
def _pack_s(found, packed, first, n_blocks, out):  # type: ignore[no-untyped-def]
    for tile in range((n_blocks + LANES - 1) // LANES):
        for v in range(0, LANES, VEC):
            for j in range(8):
                high = spread(np.int32(0))
                for k in range(8):
                    index = vload(found.codes, 64 * tile + 8 * j + k, v)
                    vstore(packed, 2 + 8 * j + k, v, index)
                    high = high | index >> 8 << k
                vstore(packed, 66 + j, v, high)
            for k in range(32):
                vstore(packed, 74 + k, v, vload(found.signs, 32 * tile + k, v))
            largest = largest_scale(found, tile, 8, v)
            d = largest / np.float32(31)
            inverse = np.float32(1) / d
            store_u16(packed, 0, where(largest != 0, half_bits(d * np.float32(1.033)), 0), v)
            for j in range(4):
                low = level_of_scale(found, 16 * tile + 2 * j, inverse, v)
                high = level_of_scale(found, 16 * tile + 2 * j + 1, inverse, v)
                vstore(packed, 106 + j, v, where(largest != 0, low | high << 4, 0))
        _close_gaps(found, packed, tile)
        store_lanes(packed, out, first + tile * LANES, min(LANES, n_blocks - tile * LANES))


@jit
def _decode_xxs(blocks, out, values, all_signs):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 98):
        block = raw[98 * b : 98 * b + 98]
        d = half_at(block, 0)
        for j in range(8):
            word = np.int64(0)
            for k in range(4):
                word |= np.int64(block[66 + 4 * j + k]) << (8 * k)
            db = d * (np.float32(0.5) + np.float32(word >> 28)) * np.float32(0.5)
            for i in range(32):
                sign = all_signs[word >> (7 * (i // 8)) & 127] >> (i % 8) & 1
                value = values[block[2 + 8 * j + i // 4], i % 4]
                y[256 * b + 32 * j + i] = db * value * np.float32(1 - 2 * sign)


@jit
def _decode_s(blocks, out, values):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 110):
        block = raw[110 * b : 110 * b + 110]
        d = half_at(block, 0)
        for j in range(8):
            db = d * np.float32(1 + 2 * (np.int64(block[106 + j // 2]) >> (4 * (j % 2)) & 15))
            for i in range(32):
                sign = np.int64(block[74 + 4 * j + i // 8]) >> (i % 8) & 1
                index = np.int64(block[2 + 8 * j + i // 4]) | (np.int64(block[66 + j]) >> (i // 4) & 1) << 8
                y[256 * b + 32 * j + i] = db * values[index, i % 4] * np.float32(1 - 2 * sign)


def encode_xxs(src: Any, code: int, importance: Any, out: Any) -> None:
    encode(src, code, importance, out, lattice("iq3_xxs"), _XXS, _pack_xxs, 98)


def decode_xxs(blocks: Any, out: Any) -> None:
    _decode_xxs(blocks, out, load_codebook("iq3_xxs").values, signs_of_seven())


def encode_s(src: Any, code: int, importance: Any, out: Any) -> None:
    encode(src, code, importance, out, lattice("iq3_s"), _S, _pack_s, 110)


def decode_s(blocks: Any, out: Any) -> None:
    _decode_s(blocks, out, load_codebook("iq3_s").values)


KERNELS = {
    "IQ3_XXS": Kernel(BY_NAME["IQ3_XXS"], encode_xxs, decode_xxs, uses_importance=True),
    "IQ3_S": Kernel(BY_NAME["IQ3_S"], encode_s, decode_s, uses_importance=True),
}
