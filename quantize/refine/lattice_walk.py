"""The compiled walks over a lattice type, an octet of columns at a time. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline, jit_part
from ..kernels.codebooks import CODEBOOKS, load_codebook
from ..kernels.nearest import nearest_of_eight, nearest_of_three
from ..kernels.simd import VEC, spread, vload, vstore
from .lattice_types import EVEN, MOVED, MOVED_TOGETHER, LatticeType
from .products import fma

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


@jit
def feed(lanes, at, near, compensated, cost, lattice, codebook, octet):  # type: ignore[no-untyped-def]
    """Choose the points of a square of columns, octet by octet, each octet's errors fed into the rest.

    Args:
        lanes: ``Lanes``; the square's ``errors`` and ``left`` are written.
        at: the square's first column.
        near: float32 [n, n], the factor's square.
        compensated: ``Columns``, what the square's weights have become by the errors before them; scratch afterwards.
        cost: float32 [columns], of a squared error in each column.
        lattice: ``LatticeCodes``; the square's ``points`` and ``signs`` are written.
        codebook: ``WalkCodebook``.
        octet: ``Octet``, scratch.
    """
    n, x = near.shape[0], compensated.values
    for group in range(lanes.weights.shape[0] // lanes.width):
        first, here = group * compensated.width + compensated.at, group * lanes.width + at
        for k8 in range(n // 8):
            j = 8 * k8
            row = (here + j) // 8
            for i in range(8):
                for lane in range(VEC):
                    octet.x[8 * lane + i] = x[first + j + i, lane]
                    octet.weight[8 * lane + i] = cost[at + j + i]
            for lane in range(VEC):
                octet.sign[0, lane] = lattice.signs[row, lane]
            _choose(octet, lattice.scales, (here + j) // lattice.size, codebook)
            vstore(lattice.points, 2 * row, 0, vload(octet.point, 0, 0))
            vstore(lattice.points, 2 * row + 1, 0, vload(octet.point, 1, 0))
            vstore(lattice.signs, row, 0, vload(octet.sign, 0, 0))
            for i in range(8):
                value = vload(octet.value, i, 0)
                vstore(lanes.errors, here + j + i, 0, vload(lanes.weights, here + j + i, 0) - value)
                # the octet's own errors feed each other too: what is left is what no later column can repair
                for k in range(i):
                    v = vload(x, first + j + i, 0)
                    error = vload(lanes.errors, here + j + k, 0)
                    vstore(x, first + j + i, 0, fma(error, spread(near[j + k, j + i]), v))
                vstore(lanes.left, here + j + i, 0, vload(x, first + j + i, 0) - value)
            for i in range(8):
                error = vload(lanes.errors, here + j + i, 0)
                for k in range(j + 8, n):
                    vstore(x, first + k, 0, fma(error, spread(near[j + i, k]), vload(x, first + k, 0)))


@jit
def descend(lanes, at, near, inverses, curvature, lattice, codebook, octet):  # type: ignore[no-untyped-def]
    """One pass of descent over a square: each octet is moved to where it would best be, all others being as they are,
    if that lessens the quadratic loss.

    Args:
        lanes: ``Lanes``; the square's ``errors`` are changed, and its part of ``gradient`` is kept true.
        at: the square's first column.
        near: float32 [n, n], H's square.
        inverses: float32 [n, 8], the inverses of H's diagonal octets, one below the other.
        curvature: float32 [columns], H's diagonal.
        lattice: ``LatticeCodes``; the square's ``points`` and ``signs`` are changed.
        codebook: ``WalkCodebook``.
        octet: ``Octet``, scratch.
    """
    n, gradient = near.shape[0], lanes.gradient
    change = np.empty((8, VEC), np.float32)
    for group in range(lanes.weights.shape[0] // lanes.width):
        here = group * lanes.width + at
        for k8 in range(n // 8):
            j = 8 * k8
            row = (here + j) // 8
            for i in range(8):
                best = vload(lanes.weights, here + j + i, 0) - vload(lanes.errors, here + j + i, 0)
                for k in range(8):
                    best = fma(vload(gradient, here + j + k, 0), spread(inverses[j + k, i]), best)
                vstore(change, i, 0, best)
            for i in range(8):
                for lane in range(VEC):
                    octet.x[8 * lane + i] = change[i, lane]
                    octet.weight[8 * lane + i] = curvature[at + j + i]
            for lane in range(VEC):
                octet.sign[0, lane] = lattice.signs[row, lane]
            _choose(octet, lattice.scales, (here + j) // lattice.size, codebook)
            moving = _accept(lanes, near, octet, change, here, j)
            if not moving:
                continue
            for lane in range(VEC):
                if octet.sign[0, lane] >= 0:
                    lattice.points[2 * row, lane] = octet.point[0, lane]
                    lattice.points[2 * row + 1, lane] = octet.point[1, lane]
                    lattice.signs[row, lane] = octet.sign[0, lane]
            for i in range(8):
                delta = vload(change, i, 0)
                vstore(lanes.errors, here + j + i, 0, vload(lanes.errors, here + j + i, 0) + delta)
                for k in range(n):
                    vstore(gradient, here + k, 0, fma(delta, spread(near[j + i, k]), vload(gradient, here + k, 0)))


@jit
def _accept(lanes, near, octet, change, here, j):  # type: ignore[no-untyped-def]
    """Turn ``change`` into the change of the errors, zero where it would not lessen the loss (the lane's sign becomes
    -1 there); return whether any lane moves."""
    loss = spread(_ZERO)
    for i in range(8):
        delta = vload(lanes.weights, here + j + i, 0) - vload(octet.value, i, 0) - vload(lanes.errors, here + j + i, 0)
        vstore(change, i, 0, delta)
    for i in range(8):
        product = vload(lanes.gradient, here + j + i, 0) * np.float32(2)
        for k in range(8):
            product = fma(vload(change, k, 0), spread(near[j + k, j + i]), product)
        loss = fma(product, vload(change, i, 0), loss)
    anything = False
    vstore(octet.value, 0, 0, loss)
    for lane in range(VEC):
        if octet.value[0, lane] < _ZERO:
            anything = True
        else:
            octet.sign[0, lane] = -1
            for i in range(8):
                change[i, lane] = _ZERO
    return anything
