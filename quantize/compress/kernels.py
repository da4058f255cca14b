"""Kernels that round weights as torch does it in the weights' own type: each step is rounded to F32, F16 or BF16.

Source: quantization/utils/helpers.py (``calculate_qparams``), mxfp_utils.py and lifecycle/forward_helpers.py of
compressed-tensors 0.19 and 0.20, whose operations, order and types these are.
"""

from __future__ import annotations

import numpy as np

from ..kernels.base import bits_to_float, float_to_bits, float_to_half, half_to_float, jit, jit_inline, nearest_int

F32, F16, BF16 = 0, 1, 2
INT, FP8, FP4 = 0, 1, 2


@jit_inline
def in_type(x, dtype):  # type: ignore[no-untyped-def]
    """Round a float32 to F16 or BF16, to nearest even; it stays a float32."""
    if dtype == 1:
        return half_to_float(float_to_half(x))
    if dtype == 2:
        if x != x:
            return x
        bits = float_to_bits(x)
        rounded = (bits + (np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1)))) & np.int32(-65536)
        return bits_to_float(np.int32(rounded))
    return x


@jit_inline
def e4m3(x):  # type: ignore[no-untyped-def]
    """The code of the E4M3 number nearest to x, of at most 448: a byte in an int32."""
    bits = float_to_bits(x)
    sign = (bits >> np.int32(24)) & np.int32(0x80)
    bits = bits & np.int32(0x7FFFFFFF)
    size = bits_to_float(np.int32(bits))
    if size < np.float32(0.015625):  # below the smallest normal number, steps are of 2**-9
        return sign | nearest_int(size * np.float32(512))
    rounded = (bits + (np.int32(0x7FFFF) + ((bits >> np.int32(20)) & np.int32(1)))) >> np.int32(20)
    return sign | (rounded - np.int32(120 << 3))


@jit_inline
def from_e4m3(code):  # type: ignore[no-untyped-def]
    """The size of an E4M3 number, without its sign."""
    exponent, mantissa = (code >> np.int32(3)) & np.int32(15), code & np.int32(7)
    if exponent == 0:
        return np.float32(mantissa) * np.float32(0.001953125)
    return bits_to_float(np.int32(((exponent + np.int32(120)) << np.int32(23)) | (mantissa << np.int32(20))))


@jit_inline
def e2m1(x):  # type: ignore[no-untyped-def]
    """The code of the E2M1 number nearest to x, ties to even; a zero with a sign where x is below zero."""
    size = abs(x)
    code = np.int32(0)
    code += np.int32(size > np.float32(0.25))
    code += np.int32(size >= np.float32(0.75))
    code += np.int32(size > np.float32(1.25))
    code += np.int32(size >= np.float32(1.75))
    code += np.int32(size > np.float32(2.5))
    code += np.int32(size >= np.float32(3.5))
    code += np.int32(size > np.float32(5))
    return code | (np.int32(8) if x < np.float32(0) else np.int32(0))


@jit_inline
def clamp(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)


@jit
def spans(x, group, low, high):  # type: ignore[no-untyped-def]
    """The least and greatest of each group of columns: x float32 [n, width], low and high [n, width / group]."""
    for i in range(x.shape[0]):
        for g in range(low.shape[1]):
            least, most = x[i, g * group], x[i, g * group]
            for j in range(g * group, min((g + 1) * group, x.shape[1])):
                least, most = min(least, x[i, j]), max(most, x[i, j])
            low[i, g], high[i, g] = least, most


@jit
def scale_spans(low, high, dtype, top, bottom, symmetric, eps, scales, zeros):  # type: ignore[no-untyped-def]
    """Scales and zero points of ranges, all flat: zeros are int32, of the codes."""
    for k in range(low.size):
        least, most = min(low[k], np.float32(0)), max(high[k], np.float32(0))
        zero = np.int32(0)
        if symmetric:
            scale = in_type(max(abs(least), abs(most)) / ((top - bottom) / np.float32(2)), dtype)
        else:
            scale = in_type(in_type(most - least, dtype) / (top - bottom), dtype)
            exact = in_type(bottom - in_type(least / scale, dtype), dtype)
            if exact == exact:
                zero = nearest_int(clamp(exact, bottom, top))
        scales[k] = eps if scale == np.float32(0) else scale
        zeros[k] = zero


@jit
def scale_mx(low, high, dtype, scales, exponents):  # type: ignore[no-untyped-def]
    """Powers of two of ranges: the scales as numbers of the type, and their E8M0 exponents."""
    shift = np.int32(23) if dtype == 0 else np.int32(10) if dtype == 1 else np.int32(7)
    for k in range(low.size):
        most = max(abs(low[k]), abs(high[k]))  # whether they have zero between them or not
        # The exponent of the number, or of the next where the mantissa is of 1.75 and more.
        if dtype == 1:
            bits = np.int32(float_to_half(most))
        else:
            bits = float_to_bits(most) if dtype == 0 else float_to_bits(most) >> np.int32(16)
        power = (bits + (np.int32(1) << (shift - np.int32(2)))) >> shift
        if dtype == 1 and power > 0:
            power += np.int32(127 - 15)
        exponent = power - np.int32(2) if power > 2 else np.int32(0)
        scale = in_type(bits_to_float(np.int32(exponent << np.int32(23))), dtype)
        if exponent == 0:  # 2**-127, below float32's normal numbers
            scale = in_type(bits_to_float(np.int32(0x00400000)), dtype)
        if scale == np.float32(0):  # beyond what a half holds
            scale, exponent = np.float32(1), np.int32(127)
        scales[k] = scale
        exponents[k] = exponent


@jit
def scale_tensor_groups(low, high, dtype, whole, scales, codes):  # type: ignore[no-untyped-def]
    """The scales of groups beside one of the tensor: float32 to divide by, and their E4M3 codes."""
    for k in range(low.size):
        most = max(abs(low[k]), abs(high[k]))  # whether they have zero between them or not
        scale = clamp(whole * in_type(most / np.float32(6), dtype), np.float32(-448), np.float32(448))
        code = e4m3(scale)
        if code == 0:
            code = np.int32(0x20)  # 0.125, which stands for a scale of zero
        codes[k] = code
        scales[k] = from_e4m3(code) / whole


@jit
def round_rows(x, group, dtype, kind, half, scales, zeros, out):  # type: ignore[no-untyped-def]
    """Codes of weights: x float32 [n, width], scales and zeros [n, groups], out uint8 [n, width].

    Whole numbers are stored plus ``half``, so that the least is 0; the quotients are rounded to ``dtype``.
    """
    low, high = np.float32(-half), np.float32(half - 1)
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            scale, zero = scales[i, g], np.float32(zeros[i, g])
            for j in range(g * group, min((g + 1) * group, x.shape[1])):
                value = in_type(x[i, j] / scale, dtype)
                if kind == 0:
                    if zero != np.float32(0):
                        value = in_type(value + zero, dtype)
                    out[i, j] = np.uint8(nearest_int(clamp(value, low, high)) + half)
                elif kind == 1:
                    value = value + np.float32(0)  # a minus zero loses its sign, as where a zero point is added
                    out[i, j] = np.uint8(e4m3(clamp(value, np.float32(-448), np.float32(448))))
                else:
                    out[i, j] = np.uint8(e2m1(value))


@jit_inline
def from_e2m1(code):  # type: ignore[no-untyped-def]
    """The size of an E2M1 number, without its sign."""
    if code < 2:
        return np.float32(code) * np.float32(0.5)
    exponent, mantissa = (code >> np.int32(1)) & np.int32(3), code & np.int32(1)
    return (np.float32(1) + np.float32(mantissa) * np.float32(0.5)) * np.float32(1 << (exponent - 1))


@jit
def add_errors(x, group, dtype, kind, half, scales, zeros, errors):  # type: ignore[no-untyped-def]
    """Sums of |rounded - x| ** 2.4 of each group: x float32 [n, width], the others [n, groups]."""
    low, high = np.float32(-half), np.float32(half - 1)
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            scale, zero = scales[i, g], np.float32(zeros[i, g])
            total = np.float32(0)
            for j in range(g * group, min((g + 1) * group, x.shape[1])):
                value = in_type(x[i, j] / scale, dtype)
                if kind == 0:
                    value = in_type(value + zero, dtype)
                    rounded = np.float32(nearest_int(clamp(value, low, high))) - zero
                elif kind == 1:
                    rounded = from_e4m3(e4m3(clamp(value, np.float32(-448), np.float32(448))) & np.int32(127))
                else:
                    rounded = from_e2m1(e2m1(value) & np.int32(7))
                if kind != 0 and value < np.float32(0):
                    rounded = -rounded
                error = abs(in_type(in_type(rounded * scale, dtype) - x[i, j], dtype))
                total += in_type(error ** np.float32(2.4), dtype)
            errors[i, g] += total
