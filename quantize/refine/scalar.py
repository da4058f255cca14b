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
def feed(x, near, scales, offsets, size, low, high, middles, steps, w, at, columns, errors, left, codes):  # type: ignore[no-untyped-def]
    """Choose the codes of a panel of columns, one after the other, each column's error fed into the rest.

    Args:
        x: [n columns], what the panel's weights have become by the errors before it; scratch afterwards.
        near: float32 [n, n], the factor's part in the panel.
        scales, offsets: [n / size columns].
        low, high: levels.
        middles, steps: float32, the table's midpoints, its first value and differences; or empty.
        w: [columns], the weights; the panel begins at column ``at``.
        errors: [columns], the panel's written: weight minus value.
        left: [columns], likewise: what remained between the compensated weight and its value.
        codes: uint8 [columns], likewise.

    Arrays in the lane form but ``near``.
    """
    n = near.shape[0]
    subs = n // size
    for group in range(x.shape[0] // n):
        first, here = group * n, group * columns + at
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % size == 0:
                scale, offset = vload(scales, group * subs + j // size, 0), vload(offsets, group * subs + j // size, 0)
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
    moved,
    moves,
):
    """One pass of coordinate descent over a panel: each column's code is moved to where the quadratic loss is least,
    all others being as they are.

    Args:
        gradient: [columns], errors times H; the panel's part is kept true.
        near: float32 [n, n], H in the panel.
        curvature: float32 [columns], one over H's diagonal.
        moved: [n columns], written: the change of the errors.
        moves: int32 [groups, n + 1], written: how many columns of each group moved, and which.

    The others are as of ``feed``.
    """
    n = near.shape[0]
    subs = n // size
    for group in range(moves.shape[0]):
        here = group * columns + at
        count = 0
        scale = spread(_ZERO)
        offset = spread(_ZERO)
        inverse = spread(_ZERO)
        for j in range(n):
            if j % size == 0:
                scale, offset = vload(scales, group * subs + j // size, 0), vload(offsets, group * subs + j // size, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            old, weight = vload(errors, here + j, 0), vload(w, here + j, 0)
            best = weight - old + vload(gradient, here + j, 0) * curvature[at + j]
            level = _level((best - offset) * inverse, low, high, middles)
            move = level != vload(codes, here + j, 0) + low
            if any_lane(move):
                error = where(move, weight - (scale * _value(level, steps) + offset), old)
                delta = error - old
                vstore(moved, group * n + j, 0, delta)
                vstore(codes, here + j, 0, level - low)
                vstore(errors, here + j, 0, error)
                count += 1
                moves[group, count] = j
                for k in range(n):
                    vstore(gradient, here + k, 0, fma(delta, spread(near[j, k]), vload(gradient, here + k, 0)))
        moves[group, 0] = count
