"""The compiled walks over a lattice type, an octet of columns at a time. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline, jit_part
from ..kernels.codebooks import CODEBOOKS, load_codebook
from ..kernels.nearest import nearest_of_eight, nearest_of_three
from ..kernels.simd import VEC, any_lane, spread, vload, vload_flat, vstore, vstore_flat, where
from .columns import OCTET
from .lattice_types import EVEN, MOVED, MOVED_TOGETHER, LatticeType
from .products import SQUARE, TILE, fma
from .refit import refit
from .squares import begin_square, meet_earlier, meet_octet, publish_octet, publish_square

_ZERO, _DELTA = np.float32(0), np.float32(0.125)


class WalkCodebook(NamedTuple):
    """A codebook as the walks take it.

    Args:
        values, index_of, slot, near: see ``codebooks.SearchableCodebook``.
        levels, middles: float32, the levels of a coordinate and their midpoints.
        dims: coordinates of a point.
        bits: bits of a coordinate in a packed point.
        signs: what the type does with signs, such as ``lattice_types.EVEN``.
    """

    values: Any
    index_of: Any
    slot: Any
    near: Any
    levels: Any
    middles: Any
    dims: int
    bits: int
    signs: int


class LatticeCodes(NamedTuple):
    """The scales of a block of columns and what is chosen for it, in the lane form.

    Args:
        scales: float32 [columns / size].
        size: weights in a sub-block.
        points: uint16 [columns / 4].
        signs: uint8 [columns / 8]; shifts that an earlier choice fixed are there before.
    """

    scales: Any
    size: int
    points: Any
    signs: Any


class Octet(NamedTuple):
    """Scratch for one octet in all lanes; an octet's floats are side by side.

    Args:
        x: float32 [VEC * 8], the wanted values; in the signed types their magnitudes.
        weight: float32 [VEC * 8], of a squared error.
        value: float32 [8, VEC], the chosen values.
        point: int32 [2, VEC].
        sign: int32 [1, VEC].
    """

    x: Any
    weight: Any
    value: Any
    point: Any
    sign: Any


def walk_codebook(kind: LatticeType) -> WalkCodebook:
    """Return the codebook of a lattice type as the walks take it."""
    searchable, codebook = load_codebook(kind.codebook), CODEBOOKS[kind.codebook]
    levels = np.asarray(codebook.levels, np.float32)
    middles = (levels[1:] + levels[:-1]) / np.float32(2)
    return WalkCodebook(*searchable, levels, middles, codebook.dims, codebook.bits, kind.signs)


def new_octet() -> Octet:
    """Return scratch for a walk."""
    f, i = np.float32, np.int32
    return Octet(np.empty(VEC * 8, f), np.empty(VEC * 8, f), np.empty((8, VEC), f), np.empty((2, VEC), i),
                 np.empty((1, VEC), i))  # fmt: skip


@jit_inline
def _packed(x, at, n, inverse, shift, codebook):  # type: ignore[no-untyped-def]
    """Return the rounded coordinates of ``n`` floats as a packed point."""
    packed = np.int32(0)
    for i in range(n):
        t = x[at + i] * inverse - shift
        level = np.int32(0)
        for k in range(codebook.middles.size):
            level += np.int32(1) if t > codebook.middles[k] else np.int32(0)
        packed |= level << np.int32(codebook.bits * i)
    return packed


@jit_part
def _choose_signed(octet, lane, scale, codebook):  # type: ignore[no-untyped-def]
    """Choose signs and points of an octet whose values are magnitudes times signs."""
    at = 8 * lane
    signs, odd, cheapest, cost = 0, 0, 0, np.float32(np.inf)
    for i in range(8):
        x = octet.x[at + i]
        if x < _ZERO:
            signs |= 1 << i
            odd ^= 1
            octet.x[at + i] = -x
        c = octet.weight[at + i] * x * x
        if c < cost:
            cheapest, cost = i, c
    if codebook.signs == EVEN and odd:
        signs ^= 1 << cheapest
        octet.x[at + cheapest] = -octet.x[at + cheapest]
    inverse = np.float32(1) / scale if scale != _ZERO else _ZERO
    for part in range(8 // codebook.dims):
        first = at + part * codebook.dims
        packed = _packed(octet.x, first, codebook.dims, inverse, _ZERO, codebook)
        slot = codebook.slot[packed]
        if slot:
            if codebook.dims == 8:
                low, middle, high = scale * codebook.levels[0], scale * codebook.levels[1], scale * codebook.levels[2]
                packed = nearest_of_three(octet.x, octet.weight, first, low, middle, high, codebook.near, slot)
            else:
                packed = nearest_of_eight(octet.x, octet.weight, first, scale * codebook.levels[0], codebook.near, slot)
        index = codebook.index_of[packed]
        octet.point[part, lane] = index
        for i in range(codebook.dims):
            value = scale * codebook.values[index, i]
            k = part * codebook.dims + i
            octet.value[k, lane] = -value if signs >> k & 1 else value
    octet.sign[0, lane] = signs


@jit_part
def _choose_moved(octet, lane, scale, codebook):  # type: ignore[no-untyped-def]
    """Choose the point of an octet that is moved as a whole, and, where that is free, which way."""
    at = 8 * lane
    inverse = np.float32(1) / scale if scale != _ZERO else _ZERO
    best = np.float32(np.inf)
    frozen = octet.sign[0, lane]
    for down in range(2):
        if codebook.signs == MOVED_TOGETHER and down != frozen:
            continue
        shift = -_DELTA if down else _DELTA
        packed = _packed(octet.x, at, 8, inverse, shift, codebook)
        slot = codebook.slot[packed]
        if slot:
            low, middle, high = scale * (shift - np.float32(1)), scale * shift, scale * (shift + np.float32(1))
            packed = nearest_of_three(octet.x, octet.weight, at, low, middle, high, codebook.near, slot)
        index = codebook.index_of[packed]
        cost = _ZERO
        for i in range(8):
            diff = scale * (codebook.values[index, i] + shift) - octet.x[at + i]
            cost += octet.weight[at + i] * diff * diff
        if cost < best:
            best = cost
            octet.point[0, lane] = index
            octet.sign[0, lane] = down
            for i in range(8):
                octet.value[i, lane] = scale * (codebook.values[index, i] + shift)


@jit
def _choose(octet, scales, row, codebook):  # type: ignore[no-untyped-def]
    """Choose ``value``, ``point`` and ``sign`` for ``x`` and ``weight``; ``scales[row]`` are the lanes'."""
    for lane in range(VEC):
        if codebook.signs >= MOVED:
            _choose_moved(octet, lane, scales[row, lane], codebook)
        else:
            _choose_signed(octet, lane, scales[row, lane], codebook)


@jit_inline
def _take(octet, i, target):  # type: ignore[no-untyped-def]
    """Set the wanted values of column ``i`` of an octet."""
    for lane in range(VEC):
        octet.x[8 * lane + i] = target[i, lane]


@jit
def feed(lanes, at, n, factor, diagonal, compensated, lattice, codebook, octet, scratch):  # type: ignore[no-untyped-def]
    """Choose the points of columns octet by octet, each octet's errors fed into the rest of them.

    Args:
        lanes, at, n, factor, diagonal, compensated, scratch: see ``scalar_walk.feed``.
        lattice: ``LatticeCodes``; the columns' ``points`` and ``signs`` are written.
        codebook: ``WalkCodebook``.
        octet: ``Octet``, scratch.
    """
    x = compensated.values
    for group in range(lanes.weights.shape[0] // lanes.width):
        lost = vload_flat(lanes.lost, group * VEC)
        for o in range(n // OCTET):
            column = at + OCTET * o
            here, first = group * lanes.width + column, group * compensated.width + compensated.at + OCTET * o
            if column % SQUARE == 0:
                meet_earlier(lanes, group, at, OCTET * o, factor, compensated)
            row = here // OCTET
            for i in range(OCTET):
                vstore(scratch.steps, i, 0, vload(x, first + i, 0))
                _take(octet, i, scratch.steps)
                cost = diagonal[column + i] * diagonal[column + i]
                for lane in range(VEC):
                    octet.weight[8 * lane + i] = cost
            vstore(octet.sign, 0, 0, vload(lattice.signs, row, 0))
            _choose(octet, lattice.scales, here // lattice.size, codebook)
            vstore(lattice.points, 2 * row, 0, vload(octet.point, 0, 0))
            vstore(lattice.points, 2 * row + 1, 0, vload(octet.point, 1, 0))
            vstore(lattice.signs, row, 0, vload(octet.sign, 0, 0))
            for i in range(OCTET):
                value, left = vload(octet.value, i, 0), vload(scratch.steps, i, 0)
                vstore(lanes.errors, here + i, 0, vload(lanes.weights, here + i, 0) - value)
                # the octet's own errors feed each other too: what is left is what no later column can repair
                tile, lane = (column + i) // TILE, (column + i) % TILE
                for k in range(i):
                    left = fma(vload(lanes.errors, here + k, 0), spread(factor[tile, column + k, lane]), left)
                left = left - value
                vstore(lanes.left, here + i, 0, left)
                cost = left * diagonal[column + i]
                lost = fma(cost, cost, lost)
            meet_octet(lanes, group, column, factor, compensated, first - column % SQUARE)
        vstore_flat(lanes.lost, group * VEC, lost)


@jit
def sweep(  # type: ignore[no-untyped-def]
    lanes, at, metric, passes, again, lattice, codebook, octet, scales, offsets, scratch
):
    """Passes of descent over a panel, square by square, points, then scales; until nothing moves.

    Args:
        lanes, at, metric, passes, again, scales, offsets, scratch: see ``scalar_walk.sweep``.
        lattice: ``LatticeCodes``; the panel's ``points`` and ``signs`` are changed.
        codebook: ``WalkCodebook``.
        octet: ``Octet``, scratch.
    """
    for group in range(lanes.weights.shape[0] // lanes.width):
        base = group * lanes.width + at
        vstore(scratch.lost, 0, 0, vload_flat(lanes.lost, group * VEC))
        for done in range(passes):
            moving = False
            for square in range(metric.curvature.size // SQUARE):
                begin_square(scratch)
                _descend(lanes, base, metric, square, lattice, codebook, octet, scratch)
                refit(lanes, base, metric, square, lattice.size, scales, offsets, scratch)
                if done >= passes - again:
                    _descend(lanes, base, metric, square, lattice, codebook, octet, scratch)
                if publish_square(lanes, base, metric, square, scratch):
                    moving = True
            if not moving:
                break
        vstore_flat(lanes.lost, group * VEC, vload(scratch.lost, 0, 0))


@jit
def _descend(lanes, base, metric, square, lattice, codebook, octet, scratch):  # type: ignore[no-untyped-def]
    """Move each octet to where it would best be, all others being as they are, if that lessens the quadratic loss."""
    first, change = SQUARE * square, scratch.steps
    for i in range(OCTET + 1):
        scratch.few[i] = i - 1 if i else OCTET
    for o in range(SQUARE // OCTET):
        j = first + OCTET * o
        here = base + j
        row = here // OCTET
        for i in range(OCTET):
            best = vload(lanes.weights, here + i, 0) - vload(lanes.errors, here + i, 0)
            for k in range(OCTET):
                best = fma(vload(lanes.gradient, here + k, 0), spread(metric.inverses[j + k, i]), best)
            vstore(change, i, 0, best)
        for i in range(OCTET):
            _take(octet, i, change)
            for lane in range(VEC):
                octet.weight[8 * lane + i] = metric.curvature[j + i]
        vstore(octet.sign, 0, 0, vload(lattice.signs, row, 0))
        _choose(octet, lattice.scales, here // lattice.size, codebook)
        if not _accept(lanes, metric.moments, octet, change, here, j, scratch):
            continue
        for lane in range(VEC):
            if octet.sign[0, lane] >= 0:
                lattice.points[2 * row, lane] = octet.point[0, lane]
                lattice.points[2 * row + 1, lane] = octet.point[1, lane]
                lattice.signs[row, lane] = octet.sign[0, lane]
        for i in range(OCTET):
            delta, k = vload(change, i, 0), OCTET * o + i
            vstore(lanes.errors, here + i, 0, vload(lanes.errors, here + i, 0) + delta)
            vstore(scratch.moves, k, 0, vload(scratch.moves, k, 0) + delta)
        publish_octet(lanes, base + first, metric, square, o, scratch)


@jit
def _accept(lanes, moments, octet, change, here, j, scratch):  # type: ignore[no-untyped-def]
    """Turn ``change`` into the change of the errors, zero where it would not lessen the loss (the lane's sign becomes
    -1 there); return whether any lane moves."""
    loss = spread(_ZERO)
    for i in range(OCTET):
        delta = vload(lanes.weights, here + i, 0) - vload(octet.value, i, 0) - vload(lanes.errors, here + i, 0)
        vstore(change, i, 0, delta)
    for i in range(OCTET):
        product = vload(lanes.gradient, here + i, 0) * np.float32(2)
        for k in range(OCTET):
            near = moments[(j + i) // TILE, j + k, (j + i) % TILE]
            product = fma(vload(change, k, 0), spread(near), product)
        loss = fma(product, vload(change, i, 0), loss)
    less = loss < _ZERO
    vstore(octet.sign, 0, 0, where(less, vload(octet.sign, 0, 0), spread(np.int32(-1))))
    for i in range(OCTET):
        vstore(change, i, 0, where(less, vload(change, i, 0), _ZERO))
    vstore(scratch.lost, 0, 0, vload(scratch.lost, 0, 0) + where(less, loss, _ZERO))
    return any_lane(less)
