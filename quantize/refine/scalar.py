"""The compiled walks over a scalar type: feedback, and coordinate descent. Rows of the weight are lanes."""

from __future__ import annotations

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import any_lane, spread, to_float, vload, vmax, vmin, vnearest, vstore, where
from .products import fma

_ZERO = np.float32(0)


@jit_inline
def _level(t, low, high, middles):  # type: ignore[no-untyped-def]
    """The level nearest to ``t``, a weight in units of the scale."""
    if middles.size == 0:
        return vmax(low, vmin(high, vnearest(vmax(np.float32(low) - 1, vmin(np.float32(high) + 1, t)))))
    level = spread(np.int32(0))
    for k in range(middles.size):
        level = level + where(t >= middles[k], spread(np.int32(1)), 0)
    return level


@jit_inline
def _value(level, steps):  # type: ignore[no-untyped-def]
    """What a level stands for, in units of the scale; ``steps`` are the table's first value and its differences."""
    if steps.size == 0:
        return to_float(level)
    value = spread(steps[0])
    for k in range(1, steps.size):
        value = value + where(level >= k, spread(steps[k]), _ZERO)
    return value


@jit
def feed(  # type: ignore[no-untyped-def]
    x, x_at, x_columns, near, scales, offsets, size, low, high, middles, steps, w, at, columns, errors, left, codes
):
    """Choose the codes of a square of columns, one after the other, each column's error fed into the rest.

    Args:
        x: [x_columns], what the weights from column ``x_at`` on have become by the errors before them; scratch
            afterwards.
        near: float32 [n, n], the factor's square.
        scales, offsets: [columns / size].
        low, high: levels.
        middles, steps: float32, the table's midpoints, its first value and differences; or empty.
        w: [columns], the weights; the square begins at column ``at``.
        errors: [columns], the square's written: weight minus value.
        left: [columns], likewise: what remained between the compensated weight and its value.
        codes: uint8 [columns], likewise.

    Arrays in the lane form but ``near``.
    """
    n = near.shape[0]
    for group in range(w.shape[0] // columns):
        first, here = group * x_columns + x_at, group * columns + at
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % size == 0:
                scale, offset = vload(scales, (here + j) // size, 0), vload(offsets, (here + j) // size, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            wanted = vload(x, first + j, 0)
            level = _level((wanted - offset) * inverse, low, high, middles)
            value = scale * _value(level, steps) + offset
            error = vload(w, here + j, 0) - value
            vstore(codes, here + j, 0, level - low)
            vstore(errors, here + j, 0, error)
            vstore(left, here + j, 0, wanted - value)
            for k in range(j + 1, n):
                vstore(x, first + k, 0, fma(error, spread(near[j, k]), vload(x, first + k, 0)))


@jit
def descend(  # type: ignore[no-untyped-def]
    gradient,
    near,
    curvature,
    scales,
    offsets,
    size,
    low,
    high,
    middles,
    steps,
    w,
    at,
    columns,
    errors,
    codes,
):
    """One pass of coordinate descent over a square: each column's code is moved to where the quadratic loss is least,
    all others being as they are.

    Args:
        gradient: [columns], errors times H; the square's part is kept true.
        near: float32 [n, n], H's square.
        curvature: float32 [columns], one over H's diagonal.

    The others are as of ``feed``.
    """
    n = near.shape[0]
    for group in range(w.shape[0] // columns):
        here = group * columns + at
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % size == 0:
                scale, offset = vload(scales, (here + j) // size, 0), vload(offsets, (here + j) // size, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            old, weight = vload(errors, here + j, 0), vload(w, here + j, 0)
            best = weight - old + vload(gradient, here + j, 0) * curvature[at + j]
            level = _level((best - offset) * inverse, low, high, middles)
            move = level != vload(codes, here + j, 0) + low
            if any_lane(move):
                error = where(move, weight - (scale * _value(level, steps) + offset), old)
                delta = error - old
                vstore(codes, here + j, 0, level - low)
                vstore(errors, here + j, 0, error)
                for k in range(n):
                    vstore(gradient, here + k, 0, fma(delta, spread(near[j, k]), vload(gradient, here + k, 0)))
