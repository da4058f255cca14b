"""Q8_0: blocks of 32 weights, a half-precision scale and bytes. A block is two vectors of 16."""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import Kernel, bits_to_float, float_to_bits, float_to_half, jit, jit_inline, jit_part, load_f16
from .simd import VEC, bits_of, from_bits, largest_lane, load_f32v, load_half, store_byte, to_int, vmax, vstore_bytes

assert VEC == 16

_MAGNITUDE = 0x7FFFFFFF


@jit_inline
def put_half_at(out, offset, value):  # type: ignore[no-untyped-def]
    """Store a float32 as IEEE half at a byte offset."""
    bits = np.int32(float_to_half(value))
    store_byte(out, offset, np.uint8(bits & np.int32(255)))
    store_byte(out, offset + 1, np.uint8(bits >> np.int32(8)))


@jit_inline
def inverse(d):  # type: ignore[no-untyped-def]
    """1/d, or 0 for 0."""
    return np.float32(0) if d == np.float32(0) else np.float32(1) / d


@jit_part
def encode_block_q8_0(a, b, out, at):  # type: ignore[no-untyped-def]
    """The 34 bytes of 32 weights, given as two vectors."""
    sign, almost_half = np.int32(-0x80000000), float_to_bits(np.float32(0.49999997))
    # As integers, so that NaN and Inf are the largest and reach the scale.
    amax = largest_lane(vmax(bits_of(a) & _MAGNITUDE, bits_of(b) & _MAGNITUDE))
    d = bits_to_float(amax) / np.float32(127)
    put_half_at(out, at, d)
    scale = inverse(d)
    a, b = a * scale, b * scale
    # roundf: towards zero after adding the largest float below one half, with the number's sign
    a = a + from_bits((bits_of(a) & sign) | almost_half)
    b = b + from_bits((bits_of(b) & sign) | almost_half)
    vstore_bytes(out, at + 2, to_int(a))
    vstore_bytes(out, at + 18, to_int(b))


@jit
def encode_q8_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    """A loop for each kind of source: memory is the bound, and weights go from it to registers at once."""
    n = out.size // 34
    if code == 0:
        for i in range(n):
            encode_block_q8_0(load_f32v(src, 128 * i), load_f32v(src, 128 * i + 64), out, 34 * i)
    elif code == 1:
        for i in range(n):
            encode_block_q8_0(load_half(src, 64 * i, True), load_half(src, 64 * i + 32, True), out, 34 * i)
    else:
        for i in range(n):
            encode_block_q8_0(load_half(src, 64 * i, False), load_half(src, 64 * i + 32, False), out, 34 * i)


@jit
def decode_q8_0(blocks, out):  # type: ignore[no-untyped-def]
    raw, y = blocks.reshape(-1), out.reshape(-1)
    for k in range(raw.size // 34):
        d = load_f16(raw, 34 * k)
        for j in range(32):
            y[32 * k + j] = np.float32(np.int8(raw[34 * k + 2 + j])) * d


KERNELS = {"Q8_0": Kernel(BY_NAME["Q8_0"], encode_q8_0, decode_q8_0, shows_nonfinite=True)}
