"""The compiled parts of walks over a square of columns that all types share. Rows of the weight are lanes."""

from __future__ import annotations

import numpy as np

from ..kernels.base import jit
from ..kernels.simd import any_lane, spread, vload, vstore
from .columns import OCTET
from .products import SQUARE, TILE, tile_moves, tile_product

_ZERO = np.float32(0)


@jit
def meet_earlier(lanes, group, at, q, factor, compensated):  # type: ignore[no-untyped-def]
    """Add to the square at column ``at + q`` what the errors of the columns from ``at`` on ask of it."""
    here, first = group * lanes.width + at, group * compensated.width + compensated.at + q
    for half in range(SQUARE // TILE):
        tile = (at + q) // TILE + half
        tile_product(factor, tile, at, q, lanes.errors, here, compensated.values, first + TILE * half)


@jit
def meet_octet(lanes, group, column, factor, compensated, first):  # type: ignore[no-untyped-def]
    """Add to the rest of a square, which is at line ``first`` of ``compensated``, what an octet's errors ask of it."""
    here, square = group * lanes.width + column, column // SQUARE * SQUARE
    for half in range((column + OCTET - square) // TILE, SQUARE // TILE):
        tile = square // TILE + half
        tile_product(factor, tile, column, OCTET, lanes.errors, here, compensated.values, first + TILE * half)


@jit
def look_ahead(lanes, at, width, turned):  # type: ignore[no-untyped-def]
    """Set a panel's gradient to what is left of it times the factor: see ``factor.Panel``."""
    for group in range(lanes.weights.shape[0] // lanes.width):
        base = group * lanes.width + at
        for tile in range(width // TILE):
            first = TILE * tile
            for j in range(TILE):
                vstore(lanes.gradient, base + first + j, 0, spread(_ZERO))
            tile_product(turned, tile, first, width - first, lanes.left, base + first, lanes.gradient, base + first)


@jit
def begin_square(scratch):  # type: ignore[no-untyped-def]
    """Nothing has moved yet."""
    for j in range(SQUARE):
        vstore(scratch.moves, j, 0, spread(_ZERO))


@jit
def publish_octet(lanes, here, metric, square, octet, scratch):  # type: ignore[no-untyped-def]
    """Let the square, which is at line ``here``, know how far the columns of an octet moved that are ``few``."""
    for half in range(SQUARE // TILE):
        tile, row = SQUARE // TILE * square + half, SQUARE * square + OCTET * octet
        tile_moves(metric.moments, tile, row, scratch.few, scratch.steps, 0, lanes.gradient, here + TILE * half)


@jit
def publish_square(lanes, base, metric, square, scratch):  # type: ignore[no-untyped-def]
    """Let the panel, which is at line ``base``, know how far the columns of a square moved; return whether any did."""
    count = 0
    for j in range(SQUARE):
        if any_lane(vload(scratch.moves, j, 0) != _ZERO):
            count += 1
            scratch.moved[count] = j
    scratch.moved[0] = count
    if count:
        for tile in range(metric.moments.shape[0]):
            if tile // (SQUARE // TILE) != square:
                tile_moves(
                    metric.moments, tile, SQUARE * square, scratch.moved, scratch.moves, 0, lanes.gradient,
                    base + TILE * tile,
                )  # fmt: skip
    return count > 0
