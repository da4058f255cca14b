"""The compiled refitting of scales and offsets to the codes that were chosen. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import (
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
from .products import SQUARE, TILE, fma, tile_product
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


@jit
def refit(lanes, base, metric, square, size, scales, offsets, scratch):  # type: ignore[no-untyped-def]
    """Move the scale of each sub-block of a square, then its offset, to where the quadratic loss is least, the codes
    and all others being as they are.

    Args:
        lanes: ``Lanes``; the square's ``errors`` and ``gradient`` are kept true.
        base: the line of the panel's first column.
        metric: ``Metric`` of the panel.
        square: the square's number in the panel.
        size: weights in a sub-block.
        scales, offsets: ``RefitScales``; the square's values are changed.
        scratch: ``Scratch``; ``moves`` and ``lost`` are kept true.
    """
    first = SQUARE * square
    for start in range(0, SQUARE, size):
        here = base + first + start
        row = here // size
        scale, offset = vload(scales.values, row, 0), vload(offsets.values, row, 0)
        inverse = where(scale == _ZERO, _ZERO, _ONE / scale)
        for j in range(size):
            value = vload(lanes.weights, here + j, 0) - vload(lanes.errors, here + j, 0)
            vstore(scratch.values, j, 0, (value - offset) * inverse)
        for k in range(SQUARE):
            vstore(scratch.product, k, 0, spread(_ZERO))
        for half in range(SQUARE // TILE):
            tile = SQUARE // TILE * square + half
            tile_product(metric.moments, tile, first + start, size, scratch.values, 0, scratch.product, TILE * half)
        slope, curvature = _slope(lanes, here, start, size, scratch)
        new = scale + where(curvature > _ZERO, slope / curvature, _ZERO)
        new = _representable(new, scale, vload(scales.units, row, 0), scales)
        _change(lanes, base + first, start, size, new - scale, slope, curvature, scratch)
        vstore(scales.values, row, 0, new)
        if offsets.low <= offsets.high:
            for j in range(size):
                vstore(scratch.values, j, 0, spread(_ONE))
            for k in range(SQUARE):
                total = metric.sums[square, start // TILE, k]
                if size == SQUARE:
                    total += metric.sums[square, 1, k]
                vstore(scratch.product, k, 0, spread(total))
            slope, curvature = _slope(lanes, here, start, size, scratch)
            new = offset + where(curvature > _ZERO, slope / curvature, _ZERO)
            new = _representable(new, offset, vload(offsets.units, row, 0), offsets)
            _change(lanes, base + first, start, size, new - offset, slope, curvature, scratch)
            vstore(offsets.values, row, 0, new)


@jit_inline
def _slope(lanes, here, start, size, scratch):  # type: ignore[no-untyped-def]
    """Return how steeply the loss falls (by half) as a sub-block grows by its ``values``, and half of how that
    changes."""
    slope, curvature = spread(_ZERO), spread(_ZERO)
    for j in range(size):
        v = vload(scratch.values, j, 0)
        slope = fma(vload(lanes.gradient, here + j, 0), v, slope)
        curvature = fma(vload(scratch.product, start + j, 0), v, curvature)
    return slope, curvature


@jit_inline
def _change(lanes, here, start, size, change, slope, curvature, scratch):  # type: ignore[no-untyped-def]
    """Let a sub-block of the square at line ``here`` grow by ``change`` times its ``values``."""
    if not any_lane(change != _ZERO):
        return
    back = spread(_ZERO) - change
    for j in range(size):
        delta = back * vload(scratch.values, j, 0)
        vstore(lanes.errors, here + start + j, 0, vload(lanes.errors, here + start + j, 0) + delta)
        vstore(scratch.moves, start + j, 0, vload(scratch.moves, start + j, 0) + delta)
    for k in range(SQUARE):
        product = vload(scratch.product, k, 0)
        vstore(lanes.gradient, here + k, 0, fma(back, product, vload(lanes.gradient, here + k, 0)))
    lost = fma(change, fma(change, curvature, spread(_ZERO) - slope - slope), vload(scratch.lost, 0, 0))
    vstore(scratch.lost, 0, 0, lost)
