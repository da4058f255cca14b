"""The scale search shared by the IQ2 and IQ3 types, a tile of super-blocks at a time, one super-block to a lane.

A sub-block (16 or 32 weights) is cut into groups, each a point of a codebook: 8 coordinates of 2 bits or 4 of 3 bits.
For each candidate scale the C rounds the weights, moves groups that fell off the codebook to their nearest neighbour on
it, and scores. Here the rounding and the scoring run over lanes; only the move is done group by group (``nearest``).
The packed point is all that is kept of a group.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .base import LANES, jit, jit_inline
from .grids import BOOKS, load_grid
from .nearest import nearest_of_eight, nearest_of_three
from .simd import VEC, spread, to_float, vload, vmax, vmin, vnearest, vneg, vsqrt, vstore, where

OFF = np.int32(1 << 16)  # beside a packed point: rounding fell off the codebook
MOVE = np.int32(1 << 17)  # beside a packed point: still to be moved if it is off the codebook
POINT = np.int32(0xFFFF)


class Lattice(NamedTuple):
    """A codebook as compiled code takes it: ``index``, ``slot`` and ``near`` of ``grids.Grid``, and its geometry."""

    index: Any
    slot: Any
    near: Any
    dims: int  # coordinates of a point
    bits: int  # of a coordinate in a packed point
    top: int  # the largest coordinate; the coordinate l stands for the magnitude 2 * l + 1
    top_mask: int


@cache
def lattice(name: str) -> Lattice:
    """The codebook ``name``; derives its neighbour lists, or loads them, on first use."""
    grid, book = load_grid(name), BOOKS[name]
    top = len(book.levels) - 1
    return Lattice(grid.index, grid.slot, grid.near, book.dims, book.bits, top, (1 << book.bits) - 1)


class Work(NamedTuple):
    """The state of a tile's current sub-block, and the tile's results. The last axis is the lane unless said."""

    x: Any  # f32 [32, L] magnitudes, the sign taken out
    weight: Any  # f32 [32, L]
    wx: Any  # f32 [32, L] weight * x
    points: Any  # f32 [L, 32] x again, a group's floats side by side
    roots: Any  # f32 [L, 32] square roots of the weights
    code: Any  # i32 [8, L] the candidate's points
    best: Any  # i32 [8, L] the best candidate's points
    max: Any  # f32 [1, L] largest x
    scale: Any  # f32 [1, L]
    this_scale: Any  # f32 [1, L]
    sigma2: Any  # f32 [1, L] mean square of the super-block, times what the type says
    codes: Any  # i32 [64, L] result: the points of the whole super-block
    signs: Any  # i32 [32, L] result: the signs of 8 weights, lowest bit first
    scales: Any  # f32 [16, L] result: the scale of each sub-block


@jit
def new_work():  # type: ignore[no-untyped-def]
    def floats(n):  # type: ignore[no-untyped-def]
        return np.zeros((n, LANES), np.float32)

    return Work(
        floats(32), floats(32), floats(32), np.zeros((LANES, 32), np.float32), np.zeros((LANES, 32), np.float32),
        np.zeros((8, LANES), np.int32), np.zeros((8, LANES), np.int32),
        floats(1), floats(1), floats(1), floats(1),
        np.zeros((64, LANES), np.int32), np.zeros((32, LANES), np.int32), floats(16),
    )  # fmt: skip


@jit
def mean_square(X, factor, out):  # type: ignore[no-untyped-def]
    """``out[0, lane]`` = factor * sum(X[i, lane]**2) / 256, summed in order."""
    for v in range(0, LANES, VEC):
        total = spread(np.float32(0))
        for i in range(256):
            x = vload(X, i, v)
            total = total + x * x
        vstore(out, 0, v, total * np.float32(factor) / np.float32(256))


# --- one sub-block: weights ``first`` to ``first + size`` of every super-block

FROM_IMPORTANCE, FROM_SQUARE, FROM_SQUARE_AND_MEAN = 0, 1, 2  # how an element's weight is made


@jit
def prepare(work, X, W, first, size, rule, even_signs):  # type: ignore[no-untyped-def]
    """Fill ``x``, ``weight``, ``wx``, ``max``, the group-wise copies, and ``signs`` of the sub-block.

    With ``even_signs`` only seven signs of eight are stored, the eighth makes their number even: where it is odd, the
    sign of the least important weight is flipped and its magnitude goes negative.
    """
    for v in range(0, LANES, VEC):
        sigma2 = vload(work.sigma2, 0, v)
        largest = spread(np.float32(-np.inf))
        for k in range(size // 8):
            signs = spread(np.int32(0))
            odd = spread(np.int32(0))
            least = spread(np.float32(0))
            flipped = spread(np.int32(0))
            for i in range(8):
                b = vload(X, first + 8 * k + i, v)
                if rule == FROM_IMPORTANCE:
                    weight = vload(W, first + 8 * k + i, v) * vsqrt(sigma2 + b * b)
                elif rule == FROM_SQUARE:
                    weight = b * b
                else:
                    weight = np.float32(0.25) * sigma2 + b * b
                negative = where(b >= 0, spread(np.int32(0)), 1)
                signs = signs | negative << i
                odd = odd ^ negative
                vstore(work.x, 8 * k + i, v, where(b >= 0, b, vneg(b)))
                vstore(work.weight, 8 * k + i, v, weight)
                cost = weight * b * b
                if i == 0:
                    least = cost
                flipped = where(cost < least, spread(np.int32(i)), flipped)
                least = where(cost < least, cost, least)
            if even_signs:
                flipped = where(odd == 1, flipped, -1)
                for i in range(8):
                    x = vload(work.x, 8 * k + i, v)
                    vstore(work.x, 8 * k + i, v, where(flipped == i, vneg(x), x))
                    signs = signs ^ where(flipped == i, spread(np.int32(1 << i)), 0)
                signs = signs & 127
            vstore(work.signs, first // 8 + k, v, signs)
            for i in range(8 * k, 8 * k + 8):
                x = vload(work.x, i, v)
                largest = vmax(largest, x)
                vstore(work.wx, i, v, vload(work.weight, i, v) * x)
        vstore(work.max, 0, v, largest)
    _regroup(work, size)


@jit
def _regroup(work, size):  # type: ignore[no-untyped-def]
    """The copies in which a group's floats lie side by side."""
    for i in range(size):
        for lane in range(LANES):
            work.points[lane, i] = work.x[i, lane]
            work.roots[lane, i] = np.sqrt(work.weight[i, lane])


@jit_inline
def _round(work, group, book, inverse, v):  # type: ignore[no-untyped-def]
    """The packed points of a group for these inverse scales."""
    point = spread(np.int32(0))
    for i in range(book.dims):
        level = vnearest((inverse * vload(work.x, group * book.dims + i, v) - 1) * np.float32(0.5))
        point = point | vmax(vmin(level, book.top), 0) << (book.bits * i)
    return point


@jit
def _move(work, book, size, n_lanes, only_marked):  # type: ignore[no-untyped-def]
    """Move the groups in ``code`` that are off the codebook onto it, and mark them ``OFF``."""
    for group in range(size // book.dims):
        for lane in range(n_lanes):
            point = work.code[group, lane]
            if only_marked:
                if not point & MOVE:
                    continue
                point &= POINT
                work.code[group, lane] = point
            slot = book.slot[point]
            if slot:
                scale = work.this_scale[0, lane]
                at = 32 * lane + group * book.dims
                if book.dims == 4:
                    point = nearest_of_eight(work.points, work.roots, at, scale, book.near, slot)
                else:
                    point = nearest_of_three(
                        work.points, work.roots, at, scale, scale * np.float32(3), scale * np.float32(5), book.near, slot
                    )
                work.code[group, lane] = point | OFF


@jit_inline
def _sums(work, book, size, v):  # type: ignore[no-untyped-def]
    """The C's sumqx and sumq2 of the points in ``code``."""
    sumqx = spread(np.float32(0))
    sumq2 = spread(np.float32(0))
    for group in range(size // book.dims):
        point = vload(work.code, group, v)
        for i in range(book.dims):
            q = to_float((point >> (book.bits * i) & book.top_mask) * 2 + 1)
            j = group * book.dims + i
            sumqx = sumqx + vload(work.wx, j, v) * q
            sumq2 = sumq2 + vload(work.weight, j, v) * q * q
    return sumqx, sumq2


@jit
def search(work, book, size, n_lanes, steps, step):  # type: ignore[no-untyped-def]
    """Try the inverse scales ``(2 * top + 1 + s * step) / max``, s = -steps .. steps; the best point goes into ``best``,
    its scale into ``scale``. Both keep what they hold where no candidate scores above zero."""
    best_score = np.zeros((1, LANES), np.float32)
    groups = size // book.dims
    for s in range(-steps, steps + 1):
        factor = np.float32(2 * book.top + 1) + np.float32(s) * np.float32(step)
        for v in range(0, LANES, VEC):
            inverse = factor / vload(work.max, 0, v)
            vstore(work.this_scale, 0, v, np.float32(1) / inverse)
            for group in range(groups):
                vstore(work.code, group, v, _round(work, group, book, inverse, v))
        _move(work, book, size, n_lanes, False)
        for v in range(0, LANES, VEC):
            sumqx, sumq2 = _sums(work, book, size, v)
            score = vload(best_score, 0, v)
            better = (sumq2 > 0) & (sumqx * sumqx > score * sumq2)
            scale = sumqx / sumq2
            vstore(best_score, 0, v, where(better, scale * sumqx, score))
            vstore(work.scale, 0, v, where(better, scale, vload(work.scale, 0, v)))
            for group in range(groups):
                vstore(work.best, group, v, where(better, vload(work.code, group, v), vload(work.best, group, v)))


ALWAYS, ALL_IF_OFF, THOSE_OFF = 0, 1, 2  # which groups are rounded anew once the scale is known


@jit
def refine(work, book, size, n_lanes, which):  # type: ignore[no-untyped-def]
    """Round groups of ``best`` again with the best scale, then fit the scale to the points."""
    groups = size // book.dims
    for v in range(0, LANES, VEC):
        scale = vload(work.scale, 0, v)
        off = spread(np.int32(0))
        for group in range(groups):
            off = off | vload(work.best, group, v)
        again = (scale > 0) & (((off & OFF) != 0) | (spread(np.int32(which)) == ALWAYS))
        inverse = np.float32(1) / scale
        vstore(work.this_scale, 0, v, scale)
        for group in range(groups):
            old = vload(work.best, group, v)
            this = again & (((old & OFF) != 0) | (spread(np.int32(which)) != THOSE_OFF))
            vstore(work.code, group, v, where(this, _round(work, group, book, inverse, v) | MOVE, old & POINT))
        vstore(work.max, 0, v, where(again, spread(np.float32(1)), 0))  # no longer needed; now: refined
    _move(work, book, size, n_lanes, True)
    for v in range(0, LANES, VEC):
        sumqx, sumq2 = _sums(work, book, size, v)
        fitted = (vload(work.max, 0, v) > 0) & (sumq2 > 0)
        vstore(work.scale, 0, v, where(fitted, sumqx / sumq2, vload(work.scale, 0, v)))


@jit
def finish(work, book, first, size, live, sign_mask):  # type: ignore[no-untyped-def]
    """The sub-block's points, signs and scale into the results; zeros in lanes that are not ``live``.

    A negative scale (one element's flipped sign can outweigh the rest) turns all signs.
    """
    for v in range(0, LANES, VEC):
        alive = vload(live, 0, v) != 0
        scale = vload(work.scale, 0, v)
        turn = where(scale < 0, spread(np.int32(sign_mask)), 0)
        vstore(work.scales, first // size, v, where(alive, where(scale < 0, vneg(scale), scale), 0))
        for k in range(first // 8, (first + size) // 8):
            vstore(work.signs, k, v, where(alive, vload(work.signs, k, v) ^ turn, 0))
        for group in range(size // book.dims):
            point = where(alive, vload(work.code, group, v) & POINT, 0)
            vstore(work.codes, first // book.dims + group, v, point)


# --- the super-block


@jit
def to_indices(work, book, n_groups):  # type: ignore[no-untyped-def]
    """Turn packed points into their indices on the codebook, in place."""
    for group in range(n_groups):
        for lane in range(LANES):
            work.codes[group, lane] = book.index[work.codes[group, lane]]


@jit_inline
def largest_scale(work, n_scales, v):  # type: ignore[no-untyped-def]
    largest = spread(np.float32(0))
    for j in range(n_scales):
        largest = vmax(largest, vload(work.scales, j, v))
    return largest


@jit_inline
def level_of_scale(work, j, inverse, top, v):  # type: ignore[no-untyped-def]
    """Sub-block ``j``'s scale as the integer l of ``d * (2 * l + 1)``, at most ``top``."""
    return vmax(vmin(vnearest((inverse * vload(work.scales, j, v) - 1) * np.float32(0.5)), top), 0)


@jit_inline
def store_u16(p, at, value, v):  # type: ignore[no-untyped-def]
    """Two little-endian bytes of an I32V into rows ``at`` and ``at + 1``."""
    vstore(p, at, v, value & 255)
    vstore(p, at + 1, v, value >> 8 & 255)
