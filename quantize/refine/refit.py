"""The compiled refitting of scales and mins to the codes that were chosen. Rows of the weight are lanes."""

from __future__ import annotations

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import (
    VEC,
    any_lane,
    from_half_bits,
    half_bits,
    spread,
    to_float,
    vabs,
    vload,
    vmax,
    vmin,
    vnearest,
    vstore,
    where,
)
from .products import fma

_ZERO, _ONE, _LARGEST_HALF = np.float32(0), np.float32(1), np.float32(65504)


@jit_inline
def _representable(wanted, old, unit, low, high, shift):  # type: ignore[no-untyped-def]
    """The scale nearest to ``wanted`` that the type has: a half, or a multiple of the unit (see ``scales.Scales``)."""
    if low == high:
        new = from_half_bits(half_bits(wanted))
        return where(vabs(new) <= _LARGEST_HALF, new, old)
    n = wanted * where(unit == _ZERO, _ZERO, _ONE / unit) - shift
    n = to_float(vnearest(vmax(np.float32(low), vmin(np.float32(high), n))))
    return where(unit == _ZERO, old, unit * (n + shift))


@jit_inline
def _step(gradient, near, values, here, start, size):  # type: ignore[no-untyped-def]
    """By how much a sub-block's scale would have to grow for the least loss, its values being multiples of it."""
    slope, curvature = spread(_ZERO), spread(_ZERO)
    for j in range(size):
        v = vload(values, j, 0)
        slope = fma(vload(gradient, here + start + j, 0), v, slope)
        product = spread(_ZERO)
        for k in range(size):
            product = fma(vload(values, k, 0), spread(near[start + j, start + k]), product)
        curvature = fma(v, product, curvature)
    return where(curvature > _ZERO, slope / curvature, _ZERO)


@jit
def refit(  # type: ignore[no-untyped-def]
    gradient, near, scales, units, ranges, offsets, offset_units, offset_ranges, size, w, at, columns, errors
):  # fmt: skip
    """Move the scale of each sub-block of a square, then its offset, to where the quadratic loss is least, the codes
    and all others being as they are.

    Args:
        gradient: [columns], errors times H; the square's part is kept true.
        near: float32 [n, n], H's square.
        scales, offsets: [columns / size], changed.
        units, offset_units: likewise; see ``scales.Scales``.
        ranges, offset_ranges: (low, high, shift); low above high where there are no offsets.
        w: [columns], the weights; the square begins at column ``at``.
        errors: [columns], weight minus value, kept true.

    Arrays in the lane form but ``near``.
    """
    n = near.shape[0]
    values = np.empty((n, VEC), np.float32)
    for group in range(w.shape[0] // columns):
        here = group * columns + at
        for start in range(0, n, size):
            row = (here + start) // size
            scale, offset = vload(scales, row, 0), vload(offsets, row, 0)
            inverse = where(scale == _ZERO, _ZERO, _ONE / scale)
            for j in range(size):
                value = vload(w, here + start + j, 0) - vload(errors, here + start + j, 0)
                vstore(values, j, 0, (value - offset) * inverse)
            wanted = scale + _step(gradient, near, values, here, start, size)
            new = _representable(wanted, scale, vload(units, row, 0), ranges[0], ranges[1], np.float32(ranges[2]))
            _change(gradient, near, values, new - scale, here, start, size, errors)
            vstore(scales, row, 0, new)
            if offset_ranges[0] <= offset_ranges[1]:
                for j in range(size):
                    vstore(values, j, 0, spread(_ONE))
                wanted = offset + _step(gradient, near, values, here, start, size)
                low, high, shift = offset_ranges[0], offset_ranges[1], np.float32(offset_ranges[2])
                new = _representable(wanted, offset, vload(offset_units, row, 0), low, high, shift)
                _change(gradient, near, values, new - offset, here, start, size, errors)
                vstore(offsets, row, 0, new)


@jit_inline
def _change(gradient, near, values, change, here, start, size, errors):  # type: ignore[no-untyped-def]
    """A scale changes, and what depends on it in the square."""
    if not any_lane(change != _ZERO):
        return
    for j in range(start, start + size):
        delta = spread(_ZERO) - change * vload(values, j - start, 0)
        vstore(errors, here + j, 0, vload(errors, here + j, 0) + delta)
        for k in range(near.shape[0]):
            vstore(gradient, here + k, 0, fma(delta, spread(near[j, k]), vload(gradient, here + k, 0)))
