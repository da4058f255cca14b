"""Conversions between F32, F16 and BF16, compiled: ``VEC`` weights at a time. ``floats.py`` does what is left over."""

from __future__ import annotations

from .base import jit, jit_inline, jit_part
from .simd import VEC, bits_of, half_bits, load_f32v, load_half, vstore_halves, vstore_words, where


@jit_inline
def _from_f32(src, i):  # type: ignore[no-untyped-def]
    return load_f32v(src, 4 * i)


@jit_inline
def _from_f16(src, i):  # type: ignore[no-untyped-def]
    return load_half(src, 2 * i, True)


@jit_inline
def _from_bf16(src, i):  # type: ignore[no-untyped-def]
    return load_half(src, 2 * i, False)


@jit_inline
def _put_f32(out, i, x):  # type: ignore[no-untyped-def]
    vstore_words(out, 4 * i, bits_of(x))


@jit_inline
def _put_f16(out, i, x):  # type: ignore[no-untyped-def]
    vstore_halves(out, 2 * i, half_bits(x))


@jit_inline
def _put_bf16(out, i, x):  # type: ignore[no-untyped-def]
    """``ggml_compute_fp32_to_bf16``: to nearest even, NaN made quiet."""
    bits = bits_of(x)
    rounded = (bits + ((bits >> 16 & 1) + 0x7FFF)) >> 16
    vstore_halves(out, 2 * i, where(x != x, bits >> 16 | 64, rounded))


@jit_part
def _convert(src, out, n, load, put):  # type: ignore[no-untyped-def]
    for i in range(0, n - VEC + 1, VEC):
        put(out, i, load(src, i))


@jit
def to_f32(src, code, out, n):  # type: ignore[no-untyped-def]
    """The first ``n // VEC * VEC`` weights of raw ``src`` uint8 [bytes], of float type ``code``, into raw ``out``."""
    if code == 1:
        _convert(src, out, n, _from_f16, _put_f32)
    else:
        _convert(src, out, n, _from_bf16, _put_f32)


@jit
def to_f16(src, code, out, n):  # type: ignore[no-untyped-def]
    """As ``to_f32``."""
    if code == 0:
        _convert(src, out, n, _from_f32, _put_f16)
    else:
        _convert(src, out, n, _from_bf16, _put_f16)


@jit
def to_bf16(src, code, out, n):  # type: ignore[no-untyped-def]
    """As ``to_f32``."""
    if code == 0:
        _convert(src, out, n, _from_f32, _put_bf16)
    else:
        _convert(src, out, n, _from_f16, _put_bf16)


CONVERT = {"F32": to_f32, "F16": to_f16, "BF16": to_bf16}
