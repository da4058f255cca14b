"""What the order of the work (``rows.py``) asks of a type, for the two kinds there are."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import QType
from ..kernels.contract import F32_ARRAY
from ..kernels.simd import VEC
from . import lattice, scalar
from .factor import Block
from .grids import GRIDS, Grid
from .octets import OCTETS, Octets
from .products import from_lanes, to_lanes


class State:
    """Some rows over a block of columns, in the lane form.

    Attributes:
        weights, errors: weight, and weight minus value.
        left: what remained of the compensated weight when its code was chosen.
        gradient: errors times H, true after feedback.
    """

    def __init__(self, rows: F32_ARRAY, block: Block) -> None:
        self.n, self.columns, self.block = len(rows), block.width, block
        self.weights = to_lanes(rows)
        self.groups = len(self.weights) // block.width
        self.errors, self.gradient = np.zeros_like(self.weights), np.zeros_like(self.weights)
        self.left = np.empty_like(self.weights)

    def panel(self, at: int, size: int) -> F32_ARRAY:
        """A copy of the weights of some columns."""
        parts = self.weights.reshape(self.groups, self.columns, VEC)[:, at : at + size]
        return parts.copy().reshape(-1, VEC)


class Walker(Protocol):
    """Codes of a state's columns, chosen panel by panel: ``feed`` each in order, then ``descend``, then ``write``."""

    def feed(self, at: int, x: F32_ARRAY, near: F32_ARRAY, header: Bytes) -> None: ...

    def descend(self, at: int, near: F32_ARRAY, moved: F32_ARRAY, moves: NDArray[np.int32]) -> None: ...

    def write(self, at: int, header: Bytes) -> None: ...


def walker(kind: QType, state: State) -> Walker:
    """Of one of the types that are ``REFINED``."""
    return _Scalar(GRIDS[kind.name], state) if kind.name in GRIDS else _Lattice(OCTETS[kind.name], state)


class _Scalar:
    def __init__(self, grid: Grid, state: State) -> None:
        self.grid, self.state = grid, state
        table = grid.table
        middles = (table[1:] + table[:-1]) / np.float32(2)
        self._shape = (grid.size, grid.low, grid.high, middles, np.concatenate([table[:1], np.diff(table)]))
        self._codes = np.zeros(state.weights.shape, np.uint8)
        self._scales: dict[int, tuple[F32_ARRAY, F32_ARRAY]] = {}
        self._flat = np.float32(1) / state.block.curvature

    def feed(self, at: int, x: F32_ARRAY, near: F32_ARRAY, header: Bytes) -> None:
        s = self.state
        scales, offsets = (to_lanes(part) for part in self.grid.read(header))
        self._scales[at] = scales, offsets
        scalar.feed(x, near, scales, offsets, *self._shape, s.weights, at, s.columns, s.errors, s.left, self._codes)

    def descend(self, at: int, near: F32_ARRAY, moved: F32_ARRAY, moves: NDArray[np.int32]) -> None:
        s = self.state
        scalar.descend(
            s.gradient, near, self._flat, *self._scales[at], *self._shape, s.weights, at, s.columns, s.errors,
            self._codes, moved, moves,
        )  # fmt: skip

    def write(self, at: int, header: Bytes) -> None:
        codes = _columns(self._codes, self.state, at, self.grid.type.block_size)
        self.grid.write(from_lanes(codes, self.state.n, self.grid.type.block_size), header)


class _Lattice:
    def __init__(self, octets: Octets, state: State) -> None:
        self.octets, self.state = octets, state
        self._book, self._work = lattice.book_of(octets), lattice.new_work()
        self._points = np.zeros((state.groups * state.columns // 4, VEC), np.uint16)
        self._signs = np.zeros((state.groups * state.columns // 8, VEC), np.uint8)
        self._scales: dict[int, F32_ARRAY] = {}
        self._cost = np.square(state.block.diagonal)

    def feed(self, at: int, x: F32_ARRAY, near: F32_ARRAY, header: Bytes) -> None:
        s = self.state
        scales, signs = (to_lanes(part) for part in self.octets.read(header))
        self._scales[at] = scales
        lattice.feed(
            x, near, scales, signs, self.octets.size, self._book, self._work, self._cost, s.weights, at, s.columns,
            s.errors, s.left, self._points, self._signs,
        )  # fmt: skip

    def descend(self, at: int, near: F32_ARRAY, moved: F32_ARRAY, moves: NDArray[np.int32]) -> None:
        s = self.state
        lattice.descend(
            s.gradient, near, _octet_inverses(near), s.block.curvature, self._scales[at], self.octets.size, self._book,
            self._work, s.weights, at, s.columns, s.errors, self._points, self._signs, moved, moves,
        )  # fmt: skip

    def write(self, at: int, header: Bytes) -> None:
        points, signs = _columns(self._points, self.state, at, 256, 4), _columns(self._signs, self.state, at, 256, 8)
        self.octets.write(from_lanes(points, self.state.n, 64), from_lanes(signs, self.state.n, 32), header)


def _octet_inverses(near: F32_ARRAY) -> F32_ARRAY:
    n = len(near) // 8
    octets = near.reshape(n, 8, n, 8)[np.arange(n), :, np.arange(n)]
    return np.ascontiguousarray(np.linalg.inv(octets.astype(np.float64)).astype(np.float32).reshape(-1, 8))


def _columns(lanes: NDArray[Any], state: State, at: int, size: int, each: int = 1) -> NDArray[Any]:
    """Some columns of an array in the lane form that has a row for ``each`` columns."""
    parts = lanes.reshape(state.groups, state.columns // each, VEC)[:, at // each : (at + size) // each]
    return np.ascontiguousarray(parts).reshape(-1, VEC)
