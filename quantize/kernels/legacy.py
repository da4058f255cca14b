"""Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 with one half-precision scale (and, in the _1 types, a min).

A block is two vectors of 16, and the low nibbles are the levels of the first, so without importance no transpose is
needed: ``legacy_search.py`` has the searched form for importance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME
from . import legacy_search
from .base import F32_ARRAY, Kernel, jit, jit_inline, jit_part
from .lanes import half_at, load_floats
from .q8_0 import inverse, put_half_at
from .simd import (
    VEC,
    bits_of,
    largest_lane,
    mask_bits,
    range_of_lanes,
    store_byte,
    to_int,
    trailing_zeros,
    vload_flat,
    vmax,
    vmin,
    vstore_bytes,
)

assert VEC == 16

_MAGNITUDE = 0x7FFFFFFF


@jit_inline
def as_int8(level):  # type: ignore[no-untyped-def]
    """The C's cast of a level to int8_t, which shows only when the scale was too small to invert."""
    return level << 24 >> 24


@jit_inline
def extreme_of(x):  # type: ignore[no-untyped-def]
    """The first of 32 weights of largest magnitude."""
    a, b = bits_of(vload_flat(x, 0)) & _MAGNITUDE, bits_of(vload_flat(x, 16)) & _MAGNITUDE
    amax = largest_lane(vmax(a, b))
    if amax == 0:
        return np.float32(0)  # the C starts from +0 and takes larger magnitudes only
    found = mask_bits(a == amax) | mask_bits(b == amax) << 16
    return x[trailing_zeros(found)]


@jit_inline
def range_of(x):  # type: ignore[no-untyped-def]
    """The least and the largest of 32 weights; of zeros of both signs, the first."""
    least, most = range_of_lanes(vload_flat(x, 0), vload_flat(x, 16))
    if least == np.float32(0) or most == np.float32(0):
        least, most = x[0], x[0]
        for i in range(1, 32):
            least = x[i] if x[i] < least else least
            most = x[i] if x[i] > most else most
    return least, most


@jit_part
def encode_plain(src, code, out, bits, has_min):  # type: ignore[no-untyped-def]
    """``quantize_row_q{4,5}_{0,1}_ref``: the scale from the extreme or the range, then plain rounding."""
    x = np.empty(32, np.float32)
    head = 4 if has_min else 2
    size = head + 16 + (4 if bits == 5 else 0)
    top = (1 << bits) - 1
    for block in range(out.size // size):
        at = block * size
        load_floats(src, code, 32 * block, x)
        if has_min:
            low, high = range_of(x)
            d = (high - low) / np.float32(top)
            put_half_at(out, at + 2, low)
            base, offset = low, np.float32(0.5)
        else:
            d = extreme_of(x) / np.float32(-(1 << (bits - 1)))
            base, offset = np.float32(0), np.float32(1 << (bits - 1)) + np.float32(0.5)
        put_half_at(out, at, d)
        scale = inverse(d)
        a = vmin(top, as_int8(to_int((vload_flat(x, 0) - base) * scale + offset)))
        b = vmin(top, as_int8(to_int((vload_flat(x, 16) - base) * scale + offset)))
        at += head
        if bits == 5:
            high_bits = mask_bits((a & 16) != 0) | mask_bits((b & 16) != 0) << 16
            for k in range(4):
                store_byte(out, at + k, np.uint8((high_bits >> (8 * k)) & 255))
            at += 4
            a, b = a & 15, b & 15
        vstore_bytes(out, at, a | b << 4)


@jit
def encode_q4_0(src, code, out):  # type: ignore[no-untyped-def]
    encode_plain(src, code, out, 4, False)


@jit
def encode_q4_1(src, code, out):  # type: ignore[no-untyped-def]
    encode_plain(src, code, out, 4, True)


@jit
def encode_q5_0(src, code, out):  # type: ignore[no-untyped-def]
    encode_plain(src, code, out, 5, False)


@jit
def encode_q5_1(src, code, out):  # type: ignore[no-untyped-def]
    encode_plain(src, code, out, 5, True)


@jit_part
def decode(blocks, out, bits, has_min):  # type: ignore[no-untyped-def]
    """Weight = d*level + m, or d*(level - middle)."""
    raw, y = blocks.reshape(-1), out.reshape(-1)
    head = 4 if has_min else 2
    qs = head + (4 if bits == 5 else 0)
    middle = np.int32(0 if has_min else 1 << (bits - 1))
    for k in range(raw.size // (qs + 16)):
        block = raw[k * (qs + 16) :]
        d = half_at(block, 0)
        for half in range(2):
            for j in range(16):
                level = np.int32((block[qs + j] >> (4 * half)) & 15)
                if bits == 5:
                    i = 16 * half + j
                    level |= np.int32((block[head + i // 8] >> (i % 8)) & 1) << np.int32(4)
                weight = np.float32(np.int32(level) - middle) * d
                if has_min:
                    weight = weight + half_at(block, 2)
                y[32 * k + 16 * half + j] = weight


@jit
def decode_q4_0(blocks, out):  # type: ignore[no-untyped-def]
    decode(blocks, out, 4, False)


@jit
def decode_q4_1(blocks, out):  # type: ignore[no-untyped-def]
    decode(blocks, out, 4, True)


@jit
def decode_q5_0(blocks, out):  # type: ignore[no-untyped-def]
    decode(blocks, out, 5, False)


@jit
def decode_q5_1(blocks, out):  # type: ignore[no-untyped-def]
    decode(blocks, out, 5, True)


def _encoder(plain: Callable[..., None], weighted: Callable[..., None]) -> Callable[..., None]:
    """Choose the encoder before compiled code is entered, so that only the one needed is compiled."""

    def encode_rows(src: Bytes, code: int, importance: F32_ARRAY, out: Bytes) -> None:
        if importance.size:
            weighted(src, code, importance, out)
        else:
            plain(src, code, out)

    return encode_rows


def _kernel(
    name: str, plain: Callable[..., None], weighted: Callable[..., None], decode: Callable[..., None]
) -> Kernel:
    return Kernel(BY_NAME[name], _encoder(plain, weighted), decode, uses_importance=True)


KERNELS = {
    "Q4_0": _kernel("Q4_0", encode_q4_0, legacy_search.encode_q4_0, decode_q4_0),
    "Q4_1": _kernel("Q4_1", encode_q4_1, legacy_search.encode_q4_1, decode_q4_1),
    "Q5_0": _kernel("Q5_0", encode_q5_0, legacy_search.encode_q5_0, decode_q5_0),
    "Q5_1": _kernel("Q5_1", encode_q5_1, legacy_search.encode_q5_1, decode_q5_1),
}
