"""The compiled refitting of scales and offsets to the codes that were chosen. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import (
    VEC,
    any_lane,
    bits_of,
    from_bits,
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
from .scales import HALF_MANTISSA

_ZERO, _ONE = np.float32(0), np.float32(1)


class RefitScales(NamedTuple):
    """The scales, or the offsets, of a block's sub-blocks, and what values the type can store; see ``scales.Scales``.

    Args:
        values: float32 [columns / size] in the lane form.
        units: likewise, what the values are multiples of; of floats, the subnormal ones.
        low, high, shift: a value is ``unit * (n + shift)`` with ``low`` <= n <= ``high``; a float where ``low`` and
            ``high`` are equal; there are no values where ``low`` is above ``high``.
        mantissa, largest: bits after the leading one of a float, and the largest; half-precision ones have 10, other
            floats are positive.
    """

    values: Any
    units: Any
    low: int
    high: int
    shift: float
    mantissa: int
    largest: float


@jit_inline
def _small_float(wanted, old, unit, scales):  # type: ignore[no-untyped-def]
    """Return the nearest positive float of a few bits; ``old`` where that is zero or beyond the largest."""
    cut = 23 - scales.mantissa
    rounded = ((bits_of(wanted) + ((1 << cut) >> 1)) >> cut) << cut
    few = unit * to_float(vnearest(wanted * where(unit == _ZERO, _ZERO, _ONE / unit)))
    new = where(wanted < unit * np.float32(1 << scales.mantissa), few, from_bits(rounded))
    return where((new > _ZERO) & (new <= np.float32(scales.largest)), new, old)


@jit_inline
def _representable(wanted, old, unit, scales):  # type: ignore[no-untyped-def]
    """Return the value nearest to ``wanted`` that the type can store, and ``old`` where there is none."""
    if scales.low == scales.high and scales.mantissa < HALF_MANTISSA:
        return _small_float(wanted, old, unit, scales)
    if scales.low == scales.high:
        new = from_half_bits(half_bits(wanted))
        return where(vabs(new) <= np.float32(scales.largest), new, old)
    shift = np.float32(scales.shift)
    n = wanted * where(unit == _ZERO, _ZERO, _ONE / unit) - shift
    n = to_float(vnearest(vmax(np.float32(scales.low), vmin(np.float32(scales.high), n))))
    return where(unit == _ZERO, old, unit * (n + shift))


@jit_inline
def _step(gradient, near, values, here, start, size):  # type: ignore[no-untyped-def]
    """Return by how much a sub-block's scale would have to grow for the least loss, its values being multiples of
    it."""
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
def refit(lanes, at, near, size, scales, offsets):  # type: ignore[no-untyped-def]
    """Move the scale of each sub-block of a square, then its offset, to where the quadratic loss is least, the codes
    and all others being as they are.

    Args:
        lanes: ``Lanes``; the square's ``errors`` and ``gradient`` are kept true.
        at: the square's first column.
        near: float32 [n, n], H's square.
        size: weights in a sub-block.
        scales, offsets: ``RefitScales``; the square's values are changed.
    """
    n = near.shape[0]
    values = np.empty((n, VEC), np.float32)
    for group in range(lanes.weights.shape[0] // lanes.width):
        here = group * lanes.width + at
        for start in range(0, n, size):
            row = (here + start) // size
            scale, offset = vload(scales.values, row, 0), vload(offsets.values, row, 0)
            inverse = where(scale == _ZERO, _ZERO, _ONE / scale)
            for j in range(size):
                value = vload(lanes.weights, here + start + j, 0) - vload(lanes.errors, here + start + j, 0)
                vstore(values, j, 0, (value - offset) * inverse)
            wanted = scale + _step(lanes.gradient, near, values, here, start, size)
            new = _representable(wanted, scale, vload(scales.units, row, 0), scales)
            _change(lanes, near, values, new - scale, here, start, size)
            vstore(scales.values, row, 0, new)
            if offsets.low <= offsets.high:
                for j in range(size):
                    vstore(values, j, 0, spread(_ONE))
                wanted = offset + _step(lanes.gradient, near, values, here, start, size)
                new = _representable(wanted, offset, vload(offsets.units, row, 0), offsets)
                _change(lanes, near, values, new - offset, here, start, size)
                vstore(offsets.values, row, 0, new)


@jit_inline
def _change(lanes, near, values, change, here, start, size):  # type: ignore[no-untyped-def]
    """Change a scale, and what depends on it in the square."""
    if not any_lane(change != _ZERO):
        return
    for j in range(start, start + size):
        delta = spread(_ZERO) - change * vload(values, j - start, 0)
        vstore(lanes.errors, here + j, 0, vload(lanes.errors, here + j, 0) + delta)
        for k in range(near.shape[0]):
            vstore(lanes.gradient, here + k, 0, fma(delta, spread(near[j, k]), vload(lanes.gradient, here + k, 0)))
