"""IQ2_XS and IQ2_S: groups of 8 magnitudes from a codebook, a 4-bit scale per 16 weights.

IQ2_XS has 512 points and seven stored signs to a group; IQ2_S has 1024 points and all eight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_inline
from .codebooks import load_codebook, signs_of_seven
from .lanes import half_at, store_lanes
from .lattice import THOSE_OFF, Method, encode, largest_scale, lattice, level_of_scale, store_u16
from .simd import VEC, half_bits, spread, vload, vstore, where

_XS = Method(
    size=16,
    sigma2_factor=1,
    square_and_mean=False,
    even_signs=True,
    eps=np.float32(1e-15),  # GROUP_MAX_EPS of ggml-quants.c
    fit_first=False,
    steps=9,
    step=np.float32(0.1),
    again=THOSE_OFF,
)
_S = _XS._replace(
    sigma2_factor=2,
    square_and_mean=True,
    even_signs=False,
    eps=np.float32(1e-8),  # GROUP_MAX_EPS_IQ2_S
)


@jit_inline
def _pack_scales(found, packed, tile, at_scales, fudge, v):  # type: ignore[no-untyped-def]
    """The super-block's scale into bytes 0 and 1, the sub-blocks' into bytes ``at_scales`` on."""
    largest = largest_scale(found, tile, 16, v)
    d = largest / np.float32(31)
    store_u16(packed, 0, where(largest != 0, half_bits(d * np.float32(fudge)), 0), v)
    inverse = np.float32(1) / d
    for j in range(8):
        low = level_of_scale(found, 16 * tile + 2 * j, inverse, v)
        high = level_of_scale(found, 16 * tile + 2 * j + 1, inverse, v)
        vstore(packed, at_scales + j, v, where(largest != 0, low | high << 4, 0))


@jit
def _pack_xs(found, packed, first, n_blocks, out):  # type: ignore[no-untyped-def]
    for tile in range((n_blocks + LANES - 1) // LANES):
        for v in range(0, LANES, VEC):
            some = largest_scale(found, tile, 16, v) != 0
            for k in range(32):
                word = vload(found.codes, 64 * tile + k, v) | vload(found.signs, 32 * tile + k, v) << 9
                store_u16(packed, 2 + 2 * k, where(some, word, 0), v)
            _pack_scales(found, packed, tile, 66, 1.0, v)
        store_lanes(packed, out, first + tile * LANES, min(LANES, n_blocks - tile * LANES))


@jit
def _pack_s(found, packed, first, n_blocks, out):  # type: ignore[no-untyped-def]
    for tile in range((n_blocks + LANES - 1) // LANES):
        for v in range(0, LANES, VEC):
            for j in range(8):
                high = spread(np.int32(0))
                for k in range(4):
                    index = vload(found.codes, 64 * tile + 4 * j + k, v)
                    vstore(packed, 2 + 4 * j + k, v, index)
                    vstore(packed, 34 + 4 * j + k, v, vload(found.signs, 32 * tile + 4 * j + k, v))
                    high = high | index >> 8 << (2 * k)
                vstore(packed, 66 + j, v, high)
            _pack_scales(found, packed, tile, 74, 0.9875, v)
        store_lanes(packed, out, first + tile * LANES, min(LANES, n_blocks - tile * LANES))


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
    encode(src, code, importance, out, lattice("iq2_xs"), _XS, _pack_xs, 74)


def decode_xs(blocks: Any, out: Any) -> None:
    _decode_xs(blocks, out, load_codebook("iq2_xs").values, signs_of_seven())


def encode_s(src: Any, code: int, importance: Any, out: Any) -> None:
    encode(src, code, importance, out, lattice("iq2_s"), _S, _pack_s, 82)


def decode_s(blocks: Any, out: Any) -> None:
    _decode_s(blocks, out, load_codebook("iq2_s").values)


KERNELS = {
    "IQ2_XS": Kernel(BY_NAME["IQ2_XS"], encode_xs, decode_xs, uses_importance=True, requires_importance=True),
    "IQ2_S": Kernel(BY_NAME["IQ2_S"], encode_s, decode_s, uses_importance=True),
}
