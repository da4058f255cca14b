"""The compiled walks over a scalar type: error feedback and coordinate descent. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import any_lane, spread, to_float, vload, vmax, vmin, vnearest, vstore, where
from .products import fma

_ZERO = np.float32(0)


class ScalarCodes(NamedTuple):
    """What the codes of a block of columns are chosen from, and where they are kept, in the lane form.

    Args:
        codes: uint8 [columns].
        scales, offsets: float32 [columns / size].
        size: weights in a sub-block.
        low, high: the least and the largest level; code 0 is ``low``.
        middles, steps: float32, the table's midpoints; its first value and differences; both empty without a table.
    """

    codes: Any
    scales: Any
    offsets: Any
    size: int
    low: int
    high: int
    middles: Any
    steps: Any


@jit_inline
def _level(t, low, high, middles):  # type: ignore[no-untyped-def]
    """Return the level nearest to ``t``, a weight in units of the scale."""
    if middles.size == 0:
        return vmax(low, vmin(high, vnearest(vmax(np.float32(low) - 1, vmin(np.float32(high) + 1, t)))))
    level = spread(np.int32(0))
    for k in range(middles.size):
        level = level + where(t >= middles[k], spread(np.int32(1)), 0)
    return level


@jit_inline
def _value(level, steps):  # type: ignore[no-untyped-def]
    """Return what a level stands for, in units of the scale; ``steps`` are the table's first value and differences."""
    if steps.size == 0:
        return to_float(level)
    value = spread(steps[0])
    for k in range(1, steps.size):
        value = value + where(level >= k, spread(steps[k]), _ZERO)
    return value


@jit
def feed(lanes, at, near, compensated, scalar):  # type: ignore[no-untyped-def]
    """Choose the codes of a square of columns, one after the other, each column's error fed into the rest.

    Args:
        lanes: ``Lanes``; the square's ``errors`` and ``left`` are written.
        at: the square's first column.
        near: float32 [n, n], the factor's square.
        compensated: ``Columns``, what the square's weights have become by the errors before them; scratch afterwards.
        scalar: ``ScalarCodes``; the square's ``codes`` are written.
    """
    n, x = near.shape[0], compensated.values
    for group in range(lanes.weights.shape[0] // lanes.width):
        first, here = group * compensated.width + compensated.at, group * lanes.width + at
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % scalar.size == 0:
                row = (here + j) // scalar.size
                scale, offset = vload(scalar.scales, row, 0), vload(scalar.offsets, row, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            wanted = vload(x, first + j, 0)
            level = _level((wanted - offset) * inverse, scalar.low, scalar.high, scalar.middles)
            value = scale * _value(level, scalar.steps) + offset
            error = vload(lanes.weights, here + j, 0) - value
            vstore(scalar.codes, here + j, 0, level - scalar.low)
            vstore(lanes.errors, here + j, 0, error)
            vstore(lanes.left, here + j, 0, wanted - value)
            for k in range(j + 1, n):
                vstore(x, first + k, 0, fma(error, spread(near[j, k]), vload(x, first + k, 0)))


@jit
def descend(lanes, at, near, inverse_curvature, scalar):  # type: ignore[no-untyped-def]
    """One pass of coordinate descent over a square: each column's code is moved to where the quadratic loss is least,
    all others being as they are.

    Args:
        lanes: ``Lanes``; the square's ``errors`` are changed, and its part of ``gradient`` is kept true.
        at: the square's first column.
        near: float32 [n, n], H's square.
        inverse_curvature: float32 [columns], one over H's diagonal.
        scalar: ``ScalarCodes``; the square's ``codes`` are changed.
    """
    n, gradient = near.shape[0], lanes.gradient
    for group in range(lanes.weights.shape[0] // lanes.width):
        here = group * lanes.width + at
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % scalar.size == 0:
                row = (here + j) // scalar.size
                scale, offset = vload(scalar.scales, row, 0), vload(scalar.offsets, row, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            old, weight = vload(lanes.errors, here + j, 0), vload(lanes.weights, here + j, 0)
            best = weight - old + vload(gradient, here + j, 0) * inverse_curvature[at + j]
            level = _level((best - offset) * inverse, scalar.low, scalar.high, scalar.middles)
            move = level != vload(scalar.codes, here + j, 0) + scalar.low
            if any_lane(move):
                error = where(move, weight - (scale * _value(level, scalar.steps) + offset), old)
                delta = error - old
                vstore(scalar.codes, here + j, 0, level - scalar.low)
                vstore(lanes.errors, here + j, 0, error)
                for k in range(n):
                    vstore(gradient, here + k, 0, fma(delta, spread(near[j, k]), vload(gradient, here + k, 0)))
