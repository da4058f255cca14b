"""The compiled walks over a lattice type: an octet of columns at a time. Rows of the weight are lanes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernels.base import jit, jit_inline, jit_part
from ..kernels.grids import BOOKS, load_grid
from ..kernels.nearest import nearest_of_eight, nearest_of_three
from ..kernels.simd import VEC, spread, vload, vstore
from .octets import EVEN, MOVED, MOVED_TOGETHER, Octets
from .products import fma

_ZERO, _DELTA = np.float32(0), np.float32(0.125)


class Book(NamedTuple):
    """A codebook as the walks take it: ``values``, ``index_of``, ``slot`` and ``near`` of ``grids.Grid``; the levels
    of a coordinate, their midpoints; and what the type does with signs."""

    values: Any
    index_of: Any
    slot: Any
    near: Any
    levels: Any  # f32
    middles: Any  # f32
    dims: int
    bits: int
    signs: int


class Work(NamedTuple):
    """Of one octet in all lanes; an octet's floats side by side."""

    x: Any  # f32 [VEC * 8] what is wanted; in the signed types its magnitudes
    weight: Any  # f32 [VEC * 8] of a squared error
    value: Any  # f32 [8, VEC] what was chosen
    point: Any  # i32 [2, VEC]
    sign: Any  # i32 [1, VEC]


def book_of(octets: Octets) -> Book:
    grid, book = load_grid(octets.book), BOOKS[octets.book]
    levels = np.asarray(book.levels, np.float32)
    middles = (levels[1:] + levels[:-1]) / np.float32(2)
    return Book(*grid, levels, middles, book.dims, book.bits, octets.signs)


def new_work() -> Work:
    f, i = np.float32, np.int32
    return Work(np.empty(VEC * 8, f), np.empty(VEC * 8, f), np.empty((8, VEC), f), np.empty((2, VEC), i),
                np.empty((1, VEC), i))  # fmt: skip


@jit_inline
def _packed(x, at, n, inverse, shift, book):  # type: ignore[no-untyped-def]
    """The rounded coordinates of ``n`` floats, packed."""
    packed = np.int32(0)
    for i in range(n):
        t = x[at + i] * inverse - shift
        level = np.int32(0)
        for k in range(book.middles.size):
            level += np.int32(1) if t > book.middles[k] else np.int32(0)
        packed |= level << np.int32(book.bits * i)
    return packed


@jit_part
def _choose_signed(work, lane, scale, book):  # type: ignore[no-untyped-def]
    """Signs and points of an octet whose values are magnitudes times signs."""
    at = 8 * lane
    signs, odd, cheapest, cost = 0, 0, 0, np.float32(np.inf)
    for i in range(8):
        x = work.x[at + i]
        if x < _ZERO:
            signs |= 1 << i
            odd ^= 1
            work.x[at + i] = -x
        c = work.weight[at + i] * x * x
        if c < cost:
            cheapest, cost = i, c
    if book.signs == EVEN and odd:
        signs ^= 1 << cheapest
        work.x[at + cheapest] = -work.x[at + cheapest]
    inverse = np.float32(1) / scale if scale != _ZERO else _ZERO
    for part in range(8 // book.dims):
        first = at + part * book.dims
        packed = _packed(work.x, first, book.dims, inverse, _ZERO, book)
        slot = book.slot[packed]
        if slot:
            if book.dims == 8:
                low, middle, high = scale * book.levels[0], scale * book.levels[1], scale * book.levels[2]
                packed = nearest_of_three(work.x, work.weight, first, low, middle, high, book.near, slot)
            else:
                packed = nearest_of_eight(work.x, work.weight, first, scale * book.levels[0], book.near, slot)
        index = book.index_of[packed]
        work.point[part, lane] = index
        for i in range(book.dims):
            value = scale * book.values[index, i]
            k = part * book.dims + i
            work.value[k, lane] = -value if signs >> k & 1 else value
    work.sign[0, lane] = signs


@jit_part
def _choose_moved(work, lane, scale, book):  # type: ignore[no-untyped-def]
    """The point of an octet that is moved as a whole, and, where that is free, which way."""
    at = 8 * lane
    inverse = np.float32(1) / scale if scale != _ZERO else _ZERO
    best = np.float32(np.inf)
    frozen = work.sign[0, lane]
    for down in range(2):
        if book.signs == MOVED_TOGETHER and down != frozen:
            continue
        shift = -_DELTA if down else _DELTA
        packed = _packed(work.x, at, 8, inverse, shift, book)
        slot = book.slot[packed]
        if slot:
            low, middle, high = scale * (shift - np.float32(1)), scale * shift, scale * (shift + np.float32(1))
            packed = nearest_of_three(work.x, work.weight, at, low, middle, high, book.near, slot)
        index = book.index_of[packed]
        cost = _ZERO
        for i in range(8):
            diff = scale * (book.values[index, i] + shift) - work.x[at + i]
            cost += work.weight[at + i] * diff * diff
        if cost < best:
            best = cost
            work.point[0, lane] = index
            work.sign[0, lane] = down
            for i in range(8):
                work.value[i, lane] = scale * (book.values[index, i] + shift)


@jit
def _choose(work, scales, row, book):  # type: ignore[no-untyped-def]
    """``value``, ``point`` and ``sign`` for what ``x`` and ``weight`` hold; ``scales[row]`` are the lanes'."""
    for lane in range(VEC):
        if book.signs >= MOVED:
            _choose_moved(work, lane, scales[row, lane], book)
        else:
            _choose_signed(work, lane, scales[row, lane], book)


@jit
def feed(  # type: ignore[no-untyped-def]
    x, x_at, x_columns, near, scales, size, book, work, cost, w, at, columns, errors, left, points, chosen
):
    """Choose the points of a square of columns, octet by octet, each octet's errors fed into the rest.

    Args:
        cost: float32 [columns], of a squared error in each column.
        errors, left: [columns], the square's written, as by ``scalar.feed``.
        points: uint16 [columns / 4], likewise.
        chosen: uint8 [columns / 8], the signs, likewise; frozen shifts are there before.

    The others are as of ``scalar.feed``. Arrays in the lane form but ``near`` and ``cost``.
    """
    n = near.shape[0]
    for group in range(w.shape[0] // columns):
        first, here = group * x_columns + x_at, group * columns + at
        for octet in range(n // 8):
            j = 8 * octet
            for i in range(8):
                for lane in range(VEC):
                    work.x[8 * lane + i] = x[first + j + i, lane]
                    work.weight[8 * lane + i] = cost[at + j + i]
            for lane in range(VEC):
                work.sign[0, lane] = chosen[(here + j) // 8, lane]
            _choose(work, scales, (here + j) // size, book)
            _keep(work, (here + j) // 8, points, chosen)
            for i in range(8):
                value = vload(work.value, i, 0)
                vstore(errors, here + j + i, 0, vload(w, here + j + i, 0) - value)
                # the octet's own errors feed each other too: what is left is what no later column can repair
                for k in range(i):
                    v = vload(x, first + j + i, 0)
                    vstore(x, first + j + i, 0, fma(vload(errors, here + j + k, 0), spread(near[j + k, j + i]), v))
                vstore(left, here + j + i, 0, vload(x, first + j + i, 0) - value)
            for i in range(8):
                error = vload(errors, here + j + i, 0)
                for k in range(j + 8, n):
                    vstore(x, first + k, 0, fma(error, spread(near[j + i, k]), vload(x, first + k, 0)))


@jit_inline
def _keep(work, row, points, chosen):  # type: ignore[no-untyped-def]
    vstore(points, 2 * row, 0, vload(work.point, 0, 0))
    vstore(points, 2 * row + 1, 0, vload(work.point, 1, 0))
    vstore(chosen, row, 0, vload(work.sign, 0, 0))


@jit
def descend(  # type: ignore[no-untyped-def]
    gradient, near, inverses, diagonal, scales, size, book, work, w, at, columns, errors, points, chosen
):
    """One pass of descent over a square: each octet is moved to where it would best be, all others being as they are,
    if that lessens the quadratic loss.

    Args:
        gradient: [columns], errors times H; the square's part is kept true.
        near: float32 [n, n], H's square.
        inverses: float32 [n, 8], the inverses of H's diagonal octets, one below the other.
        diagonal: float32 [columns], H's.

    The others are as of ``feed``.
    """
    n = near.shape[0]
    change = np.empty((8, VEC), np.float32)
    for group in range(w.shape[0] // columns):
        here = group * columns + at
        for octet in range(n // 8):
            j = 8 * octet
            row = (here + j) // 8
            for i in range(8):
                best = vload(w, here + j + i, 0) - vload(errors, here + j + i, 0)
                for k in range(8):
                    best = fma(vload(gradient, here + j + k, 0), spread(inverses[j + k, i]), best)
                vstore(change, i, 0, best)
            for i in range(8):
                for lane in range(VEC):
                    work.x[8 * lane + i] = change[i, lane]
                    work.weight[8 * lane + i] = diagonal[at + j + i]
            for lane in range(VEC):
                work.sign[0, lane] = chosen[row, lane]
            _choose(work, scales, (here + j) // size, book)
            moving = _accept(w, errors, gradient, near, work, change, here, j)
            if not moving:
                continue
            for lane in range(VEC):
                if work.sign[0, lane] >= 0:
                    points[2 * row, lane] = work.point[0, lane]
                    points[2 * row + 1, lane] = work.point[1, lane]
                    chosen[row, lane] = work.sign[0, lane]
            for i in range(8):
                delta = vload(change, i, 0)
                vstore(errors, here + j + i, 0, vload(errors, here + j + i, 0) + delta)
                for k in range(n):
                    vstore(gradient, here + k, 0, fma(delta, spread(near[j + i, k]), vload(gradient, here + k, 0)))


@jit
def _accept(w, errors, gradient, near, work, change, here, j):  # type: ignore[no-untyped-def]
    """Turn ``change`` into the change of the errors, zero where it would not lessen the loss (the lane's sign becomes
    -1 there); whether any lane moves."""
    loss = spread(_ZERO)
    for i in range(8):
        delta = vload(w, here + j + i, 0) - vload(work.value, i, 0) - vload(errors, here + j + i, 0)
        vstore(change, i, 0, delta)
    for i in range(8):
        product = vload(gradient, here + j + i, 0) * np.float32(2)
        for k in range(8):
            product = fma(vload(change, k, 0), spread(near[j + k, j + i]), product)
        loss = fma(product, vload(change, i, 0), loss)
    anything = False
    vstore(work.value, 0, 0, loss)
    for lane in range(VEC):
        if work.value[0, lane] < _ZERO:
            anything = True
        else:
            work.sign[0, lane] = -1
            for i in range(8):
                change[i, lane] = _ZERO
    return anything
