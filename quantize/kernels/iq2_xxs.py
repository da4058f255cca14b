"""IQ2_XXS: groups of 8 magnitudes from a codebook of 256 points, seven stored signs, a 4-bit scale per 32 weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit
from .codebooks import load_codebook, signs_of_seven
from .lanes import half_at, store_lanes
from .lattice import ALWAYS, Method, encode, largest_scale, lattice, level_of_scale, store_u16
from .simd import VEC, half_bits, vload, vstore, where

_METHOD = Method(
    size=32,
    sigma2_factor=1,
    square_and_mean=False,
    even_signs=True,
    eps=np.float32(1e-15),  # GROUP_MAX_EPS of ggml-quants.c
    fit_first=True,
    steps=6,
    step=np.float32(0.1),
    again=ALWAYS,
)


@jit
def _pack(found, packed, first, n_blocks, out):  # type: ignore[no-untyped-def]
    for tile in range((n_blocks + LANES - 1) // LANES):
        for v in range(0, LANES, VEC):
            largest = largest_scale(found, tile, 8, v)
            some = largest != 0
            d = largest / np.float32(31)
            store_u16(packed, 0, where(some, half_bits(d), 0), v)
            for j in range(8):
                word = level_of_scale(found, 16 * tile + j, np.float32(1) / d, v) << 28
                for k in range(4):
                    index = vload(found.codes, 64 * tile + 4 * j + k, v)
                    vstore(packed, 2 + 8 * j + k, v, where(some, index, 0))
                    word = word | vload(found.signs, 32 * tile + 4 * j + k, v) << (7 * k)
                word = where(some, word, 0)
                store_u16(packed, 6 + 8 * j, word, v)
                store_u16(packed, 8 + 8 * j, word >> 16, v)
        store_lanes(packed, out, first + tile * LANES, min(LANES, n_blocks - tile * LANES))


@jit
def _decode(blocks, out, values, all_signs):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for b in range(raw.size // 66):
        block = raw[66 * b : 66 * b + 66]
        d = half_at(block, 0)
        for j in range(8):
            word = np.int64(0)
            for k in range(4):
                word |= np.int64(block[6 + 8 * j + k]) << (8 * k)
            db = d * (np.float32(0.5) + np.float32(word >> 28)) * np.float32(0.25)
            for i in range(32):
                sign = all_signs[word >> (7 * (i // 8)) & 127] >> (i % 8) & 1
                value = values[block[2 + 8 * j + i // 8], i % 8]
                y[256 * b + 32 * j + i] = db * value * np.float32(1 - 2 * sign)


def encode_rows(src: Any, code: int, importance: Any, out: Any) -> None:
    encode(src, code, importance, out, lattice("iq2_xxs"), _METHOD, _pack, 66)


def decode_rows(blocks: Any, out: Any) -> None:
    _decode(blocks, out, load_codebook("iq2_xxs").values, signs_of_seven())


KERNELS = {
    "IQ2_XXS": Kernel(BY_NAME["IQ2_XXS"], encode_rows, decode_rows, uses_importance=True, requires_importance=True)
}
