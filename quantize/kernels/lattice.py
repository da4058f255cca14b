"""The scale search shared by the IQ2 and IQ3 types, a tile of super-blocks at a time, one super-block to a lane.

A sub-block (16 or 32 weights) is cut into groups, each a point of a codebook: 8 coordinates of 2 bits or 4 of 3 bits.
For each candidate scale the C rounds the weights, moves groups that fell off the codebook to their nearest neighbour on
it, and scores. Here the rounding and the scoring run over lanes; only the move is done group by group (``nearest``).
The packed point is all that is kept of a group.

Where not-a-numbers, infinities or magnitudes near 1e14 make every neighbour's distance overflow, the C aborts; here the
first neighbour is taken, and the bytes have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .base import LANES, jit, jit_inline, jit_part
from .codebooks import CODEBOOKS, load_codebook
from .lanes import load_importance_lanes, load_lanes
from .nearest import nearest_of_eight, nearest_of_three
from .simd import VEC, spread, to_float, vload, vmax, vmin, vnearest, vneg, vsqrt, vstore, where

OFF = np.int32(1 << 16)  # beside a packed point: rounding fell off the codebook
MOVE = np.int32(1 << 17)  # beside a packed point: still to be moved if it is off the codebook
POINT = np.int32(0xFFFF)


class Lattice(NamedTuple):
    """A codebook as compiled code takes it: arrays of ``codebooks.SearchableCodebook``, and its geometry."""

    index_of: Any
    slot: Any
    near: Any
    dims: int  # coordinates of a point
    bits: int  # of a coordinate in a packed point
    top: int  # the largest coordinate; the coordinate l stands for the magnitude 2 * l + 1
    top_mask: int


@cache
def lattice(name: str) -> Lattice:
    """Return the codebook ``name``. The first use derives its neighbour lists, or loads them."""
    searchable, codebook = load_codebook(name), CODEBOOKS[name]
    top = len(codebook.levels) - 1
    arrays = searchable.index_of, searchable.slot, searchable.near
    return Lattice(*arrays, codebook.dims, codebook.bits, top, (1 << codebook.bits) - 1)


class Method(NamedTuple):
    """The parameters of a type's search."""

    size: int  # weights in a sub-block
    sigma2_factor: int
    square_and_mean: bool  # without importance an element's weight is its square, plus the mean square / 4 if so
    even_signs: bool
    eps: Any  # f32, a sub-block whose largest magnitude is below is zeros; 0: only one without any magnitude
    fit_first: bool  # whether the scales to try lie around a fitted one, not around the largest magnitude
    steps: int
    step: Any  # f32
    again: int  # ALWAYS, ALL_IF_OFF or THOSE_OFF


ALWAYS, ALL_IF_OFF, THOSE_OFF = 0, 1, 2  # which groups are rounded anew once the scale is known


class Found(NamedTuple):
    """The search's results of ``tiles`` tiles; the last axis is the lane."""

    codes: Any  # u16 [64 * tiles, L] the groups' indices on the codebook
    signs: Any  # u8 [32 * tiles, L] the signs of 8 weights, lowest bit first
    scales: Any  # f32 [16 * tiles, L] of the sub-blocks
    live: Any  # u8 [16 * tiles, L] whether the sub-block is more than zeros


class Work(NamedTuple):
    """The state of a tile's current sub-block. The last axis is the lane unless said."""

    rows: Any  # f32 [256, L] the super-blocks
    importance: Any  # f32 [256, L]
    x: Any  # f32 [32, L] magnitudes, the sign taken out
    weight: Any  # f32 [32, L]
    wx: Any  # f32 [32, L] weight * x
    points: Any  # f32 [L, 32] x again, a group's floats side by side
    roots: Any  # f32 [L, 32] square roots of the weights
    levels: Any  # i32 [32, L] scratch of first_scale
    code: Any  # i32 [8, L] the candidate's points
    todo: Any  # i32 [2, 8 L + 1] the groups to move: group * L + lane, and their slot
    best: Any  # i32 [8, L] the best candidate's points
    max: Any  # f32 [1, L] what the scales to try are fractions of: the largest x, or the fitted reach
    scale: Any  # f32 [1, L]
    this_scale: Any  # f32 [1, L]
    score: Any  # f32 [1, L] of the best candidate
    sigma2: Any  # f32 [1, L] mean square of the super-block, times what the type says


def _floats(n: int) -> Any:
    return np.zeros((n, LANES), np.float32)


def _ints(n: int) -> Any:
    return np.zeros((n, LANES), np.int32)


def new_work() -> Work:
    """Scratch for one call of an encoder. Made outside compiled code, where it costs no compile time."""
    groups = np.zeros((2, LANES, 32), np.float32)
    return Work(
        *(_floats(256), _floats(256), _floats(32), _floats(32), _floats(32), groups[0], groups[1]),
        *(
            _ints(32),
            _ints(8),
            np.zeros((2, 8 * LANES + 1), np.int32),
            _ints(8),
            _floats(1),
            _floats(1),
            _floats(1),
            _floats(1),
            _floats(1),
        ),
    )


@jit_part
def _mean_square(work, factor):  # type: ignore[no-untyped-def]
    """``sigma2`` = factor * sum(rows**2) / 256, summed in order."""
    for v in range(0, LANES, VEC):
        total = spread(np.float32(0))
        for i in range(256):
            x = vload(work.rows, i, v)
            total = total + x * x
        vstore(work.sigma2, 0, v, total * np.float32(factor) / np.float32(256))


# --- one sub-block: weights ``first`` to ``first + size`` of every super-block


@jit_part
def _prepare(work, how, first, has_importance, found, signs_row):  # type: ignore[no-untyped-def]
    """Fill ``x``, ``weight``, ``wx``, ``max``, the group-wise copies, and ``signs`` of the sub-block.

    With ``how.even_signs`` only seven signs of eight are stored and the eighth makes their number even: where it is
    odd, the sign of the least important weight is flipped and its magnitude goes negative.
    """
    for v in range(0, LANES, VEC):
        sigma2 = vload(work.sigma2, 0, v)
        largest = spread(np.float32(-np.inf))
        for k in range(how.size // 8):
            signs = spread(np.int32(0))
            odd = spread(np.int32(0))
            least = spread(np.float32(0))
            flipped = spread(np.int32(0))
            for i in range(8):
                b = vload(work.rows, first + 8 * k + i, v)
                if has_importance:
                    weight = vload(work.importance, first + 8 * k + i, v) * vsqrt(sigma2 + b * b)
                elif how.square_and_mean:
                    weight = np.float32(0.25) * sigma2 + b * b
                else:
                    weight = b * b
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
            if how.even_signs:
                flipped = where(odd == 1, flipped, -1)
                for i in range(8):
                    x = vload(work.x, 8 * k + i, v)
                    vstore(work.x, 8 * k + i, v, where(flipped == i, vneg(x), x))
                    signs = signs ^ where(flipped == i, spread(np.int32(1 << i)), 0)
                signs = signs & 127
            vstore(found.signs, signs_row + k, v, signs)
            for i in range(8 * k, 8 * k + 8):
                x = vload(work.x, i, v)
                largest = vmax(largest, x)
                vstore(work.wx, i, v, vload(work.weight, i, v) * x)
        vstore(work.max, 0, v, largest)
    for i in range(how.size):
        for lane in range(LANES):
            work.points[lane, i] = work.x[i, lane]
            work.roots[lane, i] = np.sqrt(work.weight[i, lane])


@jit_inline
def _round(work, group, codebook, inverse, v):  # type: ignore[no-untyped-def]
    """The packed points of a group for these inverse scales."""
    point = spread(np.int32(0))
    for i in range(codebook.dims):
        level = vnearest((inverse * vload(work.x, group * codebook.dims + i, v) - 1) * np.float32(0.5))
        point = point | vmax(vmin(level, codebook.top), 0) << (codebook.bits * i)
    return point


@jit
def _move(work, codebook, size, n_lanes, only_marked):  # type: ignore[no-untyped-def]
    """Move the groups in ``code`` that are off the codebook onto it, and mark them ``OFF``.

    They are listed first: whether a group is off is a coin's throw, which a branch would guess wrong.
    """
    off = 0
    for group in range(size // codebook.dims):
        for lane in range(n_lanes):
            point = work.code[group, lane]
            slot = codebook.slot[point & POINT]
            if only_marked:
                work.code[group, lane] = point & POINT
                slot = slot if point & MOVE else np.int32(0)
            work.todo[0, off] = group * LANES + lane
            work.todo[1, off] = slot
            off += slot != 0
    for k in range(off):
        group, lane = work.todo[0, k] // LANES, work.todo[0, k] % LANES
        scale = work.this_scale[0, lane]
        at = 32 * lane + group * codebook.dims
        if codebook.dims == 4:
            point = nearest_of_eight(work.points, work.roots, at, scale, codebook.near, work.todo[1, k])
        else:
            three, five = scale * np.float32(3), scale * np.float32(5)
            point = nearest_of_three(work.points, work.roots, at, scale, three, five, codebook.near, work.todo[1, k])
        work.code[group, lane] = point | OFF


@jit_inline
def _sums(work, codebook, size, v):  # type: ignore[no-untyped-def]
    """The C's sumqx and sumq2 of the points in ``code``."""
    sumqx = spread(np.float32(0))
    sumq2 = spread(np.float32(0))
    for group in range(size // codebook.dims):
        point = vload(work.code, group, v)
        for i in range(codebook.dims):
            q = to_float((point >> (codebook.bits * i) & codebook.top_mask) * 2 + 1)
            j = group * codebook.dims + i
            sumqx = sumqx + vload(work.wx, j, v) * q
            sumq2 = sumq2 + vload(work.weight, j, v) * q * q
    return sumqx, sumq2


@jit_part
def _search(work, codebook, how, n_lanes):  # type: ignore[no-untyped-def]
    """Try the inverse scales ``(2 * top + 1 + s * step) / max``, s = -steps .. steps; the best points go into ``best``,
    their scale into ``scale``. Both keep what they hold where no candidate scores above zero."""
    groups = how.size // codebook.dims
    for v in range(0, LANES, VEC):
        vstore(work.score, 0, v, spread(np.float32(0)))
    for s in range(-how.steps, how.steps + 1):
        factor = np.float32(2 * codebook.top + 1) + np.float32(s) * how.step
        for v in range(0, LANES, VEC):
            inverse = factor / vload(work.max, 0, v)
            vstore(work.this_scale, 0, v, np.float32(1) / inverse)
            for group in range(groups):
                vstore(work.code, group, v, _round(work, group, codebook, inverse, v))
        _move(work, codebook, how.size, n_lanes, False)
        for v in range(0, LANES, VEC):
            sumqx, sumq2 = _sums(work, codebook, how.size, v)
            score = vload(work.score, 0, v)
            better = (sumq2 > 0) & (sumqx * sumqx > score * sumq2)
            scale = sumqx / sumq2
            vstore(work.score, 0, v, where(better, scale * sumqx, score))
            vstore(work.scale, 0, v, where(better, scale, vload(work.scale, 0, v)))
            for group in range(groups):
                vstore(work.best, group, v, where(better, vload(work.code, group, v), vload(work.best, group, v)))


@jit_part
def _refine(work, codebook, how, n_lanes):  # type: ignore[no-untyped-def]
    """Round groups of ``best`` again with the best scale, then fit the scale to the points."""
    groups = how.size // codebook.dims
    for v in range(0, LANES, VEC):
        scale = vload(work.scale, 0, v)
        off = spread(np.int32(0))
        again_rule = spread(np.int32(how.again))
        for group in range(groups):
            off = off | vload(work.best, group, v)
        again = (scale > 0) & (((off & OFF) != 0) | (again_rule == ALWAYS))
        inverse = np.float32(1) / scale
        vstore(work.this_scale, 0, v, scale)
        for group in range(groups):
            old = vload(work.best, group, v)
            this = again & (((old & OFF) != 0) | (again_rule != THOSE_OFF))
            vstore(work.code, group, v, where(this, _round(work, group, codebook, inverse, v) | MOVE, old & POINT))
        vstore(work.max, 0, v, where(again, spread(np.float32(1)), 0))  # no longer needed; now: refined
    _move(work, codebook, how.size, n_lanes, True)
    for v in range(0, LANES, VEC):
        sumqx, sumq2 = _sums(work, codebook, how.size, v)
        fitted = (vload(work.max, 0, v) > 0) & (sumq2 > 0)
        vstore(work.scale, 0, v, where(fitted, sumqx / sumq2, vload(work.scale, 0, v)))


@jit_part
def _finish(work, codebook, how, found, tile, first):  # type: ignore[no-untyped-def]
    """The sub-block's indices, signs and scale into the results; zeros in lanes that are not live.

    A negative scale (one element's flipped sign can outweigh the rest) turns all signs.
    """
    for v in range(0, LANES, VEC):
        alive = vload(found.live, 16 * tile + first // how.size, v) != 0
        scale = vload(work.scale, 0, v)
        turn = where(scale < 0, spread(np.int32(127 if how.even_signs else 255)), 0)
        vstore(found.scales, 16 * tile + first // how.size, v, where(alive, where(scale < 0, vneg(scale), scale), 0))
        for k in range(32 * tile + first // 8, 32 * tile + (first + how.size) // 8):
            vstore(found.signs, k, v, where(alive, vload(found.signs, k, v) ^ turn, 0))
        for group in range(how.size // codebook.dims):
            vstore(work.code, group, v, where(alive, vload(work.code, group, v) & POINT, 0))
    row = 64 * tile + first // codebook.dims
    for group in range(how.size // codebook.dims):
        for lane in range(LANES):
            found.codes[row + group, lane] = codebook.index_of[work.code[group, lane]]


@jit_part
def _first_scale(work, v):  # type: ignore[no-untyped-def]
    """``make_qp_quants`` of 32 magnitudes, 0 to 4 levels, as lanes.

    The C keeps the levels in bytes: a magnitude that the sign rule made negative can round to -1 and is then held as
    255. So it is here.
    """
    largest = vload(work.max, 0, v)
    inverse = np.float32(4) / largest
    scale = np.float32(1) / inverse
    best = spread(np.float32(0))
    for i in range(32):
        x = vload(work.x, i, v)
        diff = x - scale * to_float(vnearest(inverse * x) & 255)
        best = best + vload(work.weight, i, v) * diff * diff
    for step in range(-4, 5):
        if step == 0:
            continue
        trial = (np.float32(0.1) * np.float32(step) + np.float32(4)) / largest
        scale = np.float32(1) / trial
        error = spread(np.float32(0))
        for i in range(32):
            x = vload(work.x, i, v)
            diff = x - scale * to_float(vmin(vnearest(trial * x), 4))
            error = error + vload(work.weight, i, v) * diff * diff
        inverse = where(error < best, trial, inverse)
        best = where(error < best, error, best)
    sumlx = spread(np.float32(0))
    suml2 = spread(np.float32(0))
    for i in range(32):
        level = vmin(vnearest(inverse * vload(work.x, i, v)), 4)
        vstore(work.levels, i, v, level & 255)
        q = to_float(level)
        sumlx = sumlx + vload(work.wx, i, v) * q
        suml2 = suml2 + vload(work.weight, i, v) * q * q
    for _ in range(5):  # the C stops when nothing changed; then nothing would change again
        for i in range(32):
            x, weight, wx = vload(work.x, i, v), vload(work.weight, i, v), vload(work.wx, i, v)
            old = vload(work.levels, i, v)
            q = to_float(old)
            slx = sumlx - wx * q
            sl2 = suml2 - weight * q * q
            new = vmin(vnearest(x * sl2 / slx), 4)
            q = to_float(new)
            new_slx = slx + wx * q
            new_sl2 = sl2 + weight * q * q
            better = (slx > 0) & (sl2 > 0) & (new != old)
            better = better & (new_slx * new_slx * suml2 > sumlx * sumlx * new_sl2)
            vstore(work.levels, i, v, where(better, new & 255, old))
            sumlx = where(better, new_slx, sumlx)
            suml2 = where(better, new_sl2, suml2)
    return where(suml2 > 0, sumlx / suml2, 0)


@jit
def search_rows(src, code, importance, first_block, n_blocks, codebook, how, work, found):  # type: ignore[no-untyped-def]
    """Points, signs and scales of blocks ``first_block`` to ``first_block + n_blocks`` of the rows ``src``."""
    for tile in range((n_blocks + LANES - 1) // LANES):
        block = first_block + tile * LANES
        n = min(LANES, first_block + n_blocks - block)
        load_lanes(src, code, block, n, 256, work.rows)
        if importance.size:
            load_importance_lanes(importance, block, n, 256, work.importance)
        _mean_square(work, how.sigma2_factor)
        for first in range(0, 256, how.size):
            _prepare(work, how, first, importance.size > 0, found, 32 * tile + first // 8)
            for v in range(0, LANES, VEC):
                largest = vload(work.max, 0, v)
                dead = (largest < how.eps) | (largest == 0)
                scale = largest / np.float32(2 * codebook.top + 1)
                if how.fit_first:
                    scale = _first_scale(work, v)
                    reach = scale * np.float32(3)
                    vstore(work.max, 0, v, reach)
                    dead = dead | (reach <= 0)
                vstore(work.scale, 0, v, scale)
                vstore(found.live, 16 * tile + first // how.size, v, where(dead, spread(np.int32(0)), 1))
                for group in range(how.size // codebook.dims):
                    vstore(work.best, group, v, spread(OFF if how.again == ALL_IF_OFF else np.int32(0)))
            _search(work, codebook, how, n)
            _refine(work, codebook, how, n)
            _finish(work, codebook, how, found, tile, first)


PIECE = 64  # tiles searched before they are packed: half a million weights, so that results stay in the cache


def encode(
    src: Any, code: int, importance: Any, out: Any, codebook: Lattice, how: Method, pack: Callable[..., None], size: int
) -> None:
    """Encode rows with ``search_rows`` and then ``pack(found, bytes, first block, blocks, out)``, piece by piece; a
    super-block has ``size`` bytes."""
    blocks = out.size // size
    tiles = min(PIECE, -(-blocks // LANES))
    found = Found(
        np.zeros((64 * tiles, LANES), np.uint16),
        np.zeros((32 * tiles, LANES), np.uint8),
        _floats(16 * tiles),
        np.zeros((16 * tiles, LANES), np.uint8),
    )
    work, packed = new_work(), np.zeros((size, LANES), np.uint8)
    for first in range(0, blocks, PIECE * LANES):
        n = min(PIECE * LANES, blocks - first)
        search_rows(src, code, importance, first, n, codebook, how, work, found)
        pack(found, packed, first, n, out)


# --- for packing


@jit_inline
def largest_scale(found, tile, n_scales, v):  # type: ignore[no-untyped-def]
    largest = spread(np.float32(0))
    for j in range(n_scales):
        largest = vmax(largest, vload(found.scales, 16 * tile + j, v))
    return largest


@jit_inline
def level_of_scale(found, row, inverse, v):  # type: ignore[no-untyped-def]
    """A sub-block's scale as the integer l of ``d * (2 * l + 1)``, four bits."""
    return vmax(vmin(vnearest((inverse * vload(found.scales, row, v) - 1) * np.float32(0.5)), 15), 0)


@jit_inline
def store_u16(packed, at, value, v):  # type: ignore[no-untyped-def]
    """Two little-endian bytes of an I32V into the encoded bytes ``at`` and ``at + 1``."""
    vstore(packed, at, v, value)
    vstore(packed, at + 1, v, value >> 8)
