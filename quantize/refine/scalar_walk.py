"""The compiled walks over a scalar type: error feedback and coordinate descent. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline
from ..kernels.simd import (
    VEC,
    any_lane,
    spread,
    to_float,
    vload,
    vload_flat,
    vmax,
    vmin,
    vnearest,
    vstore,
    vstore_flat,
    where,
)
from .columns import OCTET
from .products import SQUARE, TILE, fma
from .refit import refit
from .squares import begin_square, meet_earlier, meet_octet, publish_octet, publish_square

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
def feed(lanes, at, n, factor, diagonal, compensated, scalar, scratch):  # type: ignore[no-untyped-def]
    """Choose the codes of columns one after the other, each column's error fed into the rest of them.

    Args:
        lanes: ``Lanes``; the columns' ``errors`` and ``left`` are written, ``lost`` grows.
        at, n: the first column, and how many they are; multiples of ``SQUARE``.
        factor: of the whole block, packed.
        diagonal: float32 [columns], see ``factor.Block``.
        compensated: ``Columns``, what the weights have become by the errors before them; scratch afterwards.
        scalar: ``ScalarCodes``; the columns' ``codes`` are written.
        scratch: ``Scratch``.
    """
    x = compensated.values
    for group in range(lanes.weights.shape[0] // lanes.width):
        lost = vload_flat(lanes.lost, group * VEC)
        scale, offset, inverse = spread(_ZERO), spread(_ZERO), spread(_ZERO)
        for o in range(n // OCTET):
            octet = at + OCTET * o
            here, first = group * lanes.width + octet, group * compensated.width + compensated.at + OCTET * o
            if octet % SQUARE == 0:
                meet_earlier(lanes, group, at, OCTET * o, factor, compensated)
            if octet % scalar.size == 0:
                row = here // scalar.size
                scale, offset = vload(scalar.scales, row, 0), vload(scalar.offsets, row, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            for i in range(OCTET):
                tile, column = (octet + i) // TILE, (octet + i) % TILE
                wanted = vload(x, first + i, 0)
                for k in range(i):
                    wanted = fma(vload(scratch.steps, k, 0), spread(factor[tile, octet + k, column]), wanted)
                level = _level((wanted - offset) * inverse, scalar.low, scalar.high, scalar.middles)
                value = scale * _value(level, scalar.steps) + offset
                error = vload(lanes.weights, here + i, 0) - value
                vstore(scalar.codes, here + i, 0, level - scalar.low)
                vstore(lanes.errors, here + i, 0, error)
                vstore(lanes.left, here + i, 0, wanted - value)
                vstore(scratch.steps, i, 0, error)
                cost = (wanted - value) * diagonal[octet + i]
                lost = fma(cost, cost, lost)
            meet_octet(lanes, group, octet, factor, compensated, first - octet % SQUARE)
        vstore_flat(lanes.lost, group * VEC, lost)


@jit
def sweep(lanes, at, metric, passes, again, scalar, scales, offsets, scratch):  # type: ignore[no-untyped-def]
    """Passes of descent over a panel, square by square, codes, then scales; until nothing moves.

    Args:
        lanes: ``Lanes``; the panel's ``errors`` are changed, its ``gradient`` is kept true, ``lost`` shrinks.
        at: the panel's first column.
        metric: ``Metric`` of the panel.
        passes: at most so many.
        again: in so many of the last passes, codes once more after the scales.
        scalar: ``ScalarCodes``; the panel's ``codes`` are changed.
        scales, offsets: ``RefitScales``; the panel's values are changed.
        scratch: ``Scratch``.
    """
    for group in range(lanes.weights.shape[0] // lanes.width):
        base = group * lanes.width + at
        vstore(scratch.lost, 0, 0, vload_flat(lanes.lost, group * VEC))
        for done in range(passes):
            moving = False
            for square in range(metric.curvature.size // SQUARE):
                begin_square(scratch)
                _descend(lanes, base, metric, square, scalar, scratch)
                refit(lanes, base, metric, square, scalar.size, scales, offsets, scratch)
                if done >= passes - again:
                    _descend(lanes, base, metric, square, scalar, scratch)
                if publish_square(lanes, base, metric, square, scratch):
                    moving = True
            if not moving:
                break
        vstore_flat(lanes.lost, group * VEC, vload(scratch.lost, 0, 0))


@jit
def _descend(lanes, base, metric, square, scalar, scratch):  # type: ignore[no-untyped-def]
    """Move each column's code to where the quadratic loss is least, all others being as they are."""
    scale, offset, inverse = spread(_ZERO), spread(_ZERO), spread(_ZERO)
    first = SQUARE * square
    lost = vload(scratch.lost, 0, 0)
    for octet in range(SQUARE // OCTET):
        count = 0
        for i in range(OCTET):
            j = OCTET * octet + i
            here, column = base + first + j, first + j
            if j % scalar.size == 0:
                row = here // scalar.size
                scale, offset = vload(scalar.scales, row, 0), vload(scalar.offsets, row, 0)
                inverse = where(scale == _ZERO, _ZERO, np.float32(1) / scale)
            gradient = vload(lanes.gradient, here, 0)
            for m in range(1, count + 1):
                k = scratch.few[m]
                near = metric.moments[column // TILE, first + OCTET * octet + k, column % TILE]
                gradient = fma(vload(scratch.steps, k, 0), spread(near), gradient)
            old, weight = vload(lanes.errors, here, 0), vload(lanes.weights, here, 0)
            best = weight - old + gradient * metric.inverse_curvature[column]
            level = _level((best - offset) * inverse, scalar.low, scalar.high, scalar.middles)
            move = level != vload(scalar.codes, here, 0) + scalar.low
            if any_lane(move):
                error = where(move, weight - (scale * _value(level, scalar.steps) + offset), old)
                delta = error - old
                vstore(scalar.codes, here, 0, level - scalar.low)
                vstore(lanes.errors, here, 0, error)
                vstore(scratch.steps, i, 0, delta)
                vstore(scratch.moves, j, 0, vload(scratch.moves, j, 0) + delta)
                lost = fma(delta, fma(delta, spread(metric.curvature[column]), gradient + gradient), lost)
                count += 1
                scratch.few[count] = i
        if count:
            scratch.few[0] = count
            publish_octet(lanes, base + first, metric, square, octet, scratch)
    vstore(scratch.lost, 0, 0, lost)
