"""TQ1_0 and TQ2_0: ternary weights, five to a byte or four to a byte, under one scale for 256.

Source: ``quantize_row_tq1_0_ref`` and ``quantize_row_tq2_0_ref`` in ggml-quants.c. The scale is the largest magnitude,
so ``lroundf`` of a scaled weight is one of three. If that magnitude is below 2**-128 its inverse is infinite, and
lroundf of an infinity or NaN is undefined in C: on x86-64 its sum with 1, taken as int, is 1, which stands for zero.
"""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import Kernel, bits_to_float, float_to_bits, jit, jit_inline
from .lanes import half_at, load_floats, store_half


@jit_inline
def _scales(x):  # type: ignore[no-untyped-def]
    """The largest magnitude of a block and its inverse; 0 for an infinite inverse, which makes every weight zero."""
    bits = np.int32(0)
    for j in range(256):
        bits = max(bits, np.int32(float_to_bits(x[j]) & np.int32(0x7FFFFFFF)))
    d = bits_to_float(bits)
    inverse = np.float32(1) / d
    return d, (np.float32(0) if inverse == np.float32(np.inf) else inverse)


@jit_inline
def _trit(x):  # type: ignore[no-untyped-def]
    """``lroundf(x) + 1`` for |x| < 1.5: halves go away from zero."""
    up = np.int32(1) if x >= np.float32(0.5) else np.int32(0)
    down = np.int32(1) if x <= np.float32(-0.5) else np.int32(0)
    return np.int32(np.int32(np.int32(1) + up) - down)


@jit
def _encode_tq2_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 66)
    x = np.empty(256, np.float32)
    for b in range(len(blocks)):
        load_floats(src, code, b * 256, x)
        d, inverse = _scales(x)
        for half in range(2):
            y = x[half * 128 : half * 128 + 128]
            qs = blocks[b, half * 32 : half * 32 + 32]
            for m in range(32):
                q = _trit(y[m] * inverse)
                q |= _trit(y[m + 32] * inverse) << np.int32(2)
                q |= _trit(y[m + 64] * inverse) << np.int32(4)
                q |= _trit(y[m + 96] * inverse) << np.int32(6)
                qs[m] = np.uint8(q)
        store_half(blocks[b], 64, d)


@jit_inline
def _pack_trits(x, n_bytes, n_trits, inverse, block, at):  # type: ignore[no-untyped-def]
    """``n_bytes`` bytes of five trits each, the first most significant, as a fraction of 3**5 rounded up to 1/256.

    Trit n of byte m is weight ``n * n_bytes + m`` of ``x``; trits beyond ``n_trits`` are 0.
    """
    for m in range(n_bytes):
        q = np.int32(0)
        for n in range(n_trits):
            q = np.int32(q * np.int32(3) + _trit(x[n * n_bytes + m] * inverse))
        if n_trits == 4:
            q = np.int32(q * np.int32(3))
        block[at + m] = np.uint8(np.uint32(q * np.int32(256) + np.int32(242)) // np.uint32(243))


@jit
def _encode_tq1_0(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 54)
    x = np.empty(256, np.float32)
    for b in range(len(blocks)):
        load_floats(src, code, b * 256, x)
        d, inverse = _scales(x)
        _pack_trits(x[:160], 32, 5, inverse, blocks[b], 0)
        _pack_trits(x[160:240], 16, 5, inverse, blocks[b], 32)
        _pack_trits(x[240:], 4, 4, inverse, blocks[b], 48)
        store_half(blocks[b], 52, d)


@jit
def _decode_tq2_0(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 66)
    weights = out.reshape(-1, 2, 4, 32)
    for b in range(len(source)):
        d = half_at(source[b], 64)
        for half in range(2):
            for n in range(4):
                for m in range(32):
                    q = np.int32(source[b, half * 32 + m] >> (2 * n)) & np.int32(3)
                    weights[b, half, n, m] = np.float32(np.int32(q - np.int32(1))) * d


@jit_inline
def _unpack_trits(block, at, n_bytes, n_trits, d, weights):  # type: ignore[no-untyped-def]
    power = np.uint8(1)
    for n in range(n_trits):
        for m in range(n_bytes):
            q = np.int32(np.uint8(block[at + m] * power)) * np.int32(3) >> np.int32(8)
            weights[n * n_bytes + m] = np.float32(np.int32(q - 1)) * d
        power = np.uint8(power * 3)


@jit
def _decode_tq1_0(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 54)
    weights = out.reshape(-1, 256)
    for b in range(len(source)):
        d = half_at(source[b], 52)
        _unpack_trits(source[b], 0, 32, 5, d, weights[b, :160])
        _unpack_trits(source[b], 32, 16, 5, d, weights[b, 160:240])
        _unpack_trits(source[b], 48, 4, 4, d, weights[b, 240:])


KERNELS = {
    "TQ1_0": Kernel(BY_NAME["TQ1_0"], _encode_tq1_0, _decode_tq1_0),
    "TQ2_0": Kernel(BY_NAME["TQ2_0"], _encode_tq2_0, _decode_tq2_0),
}
