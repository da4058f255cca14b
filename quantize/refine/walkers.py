"""What the order of the work (``rows.py``) asks of a type, for the two kinds there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

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
from .products import SQUARE, add_moves, find_moves, from_lanes, to_lanes
from .refit import refit
from .scales import Scales

# As many as ten times the plain encoder's time allows: few where that one is fast.
PASSES = (
    dict.fromkeys([*GRIDS, *OCTETS], 4)
    | dict.fromkeys(["Q3_K", "Q6_K", "Q4_0", "Q5_0", "IQ1_M"], 1)
    | dict.fromkeys(["IQ1_S", "IQ4_NL", "IQ4_XS"], 2)
    | dict.fromkeys(["IQ2_S", "Q4_1"], 3)
)


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
        self.errors, self.left = np.empty_like(self.weights), np.empty_like(self.weights)
        self.gradient = np.zeros_like(self.weights)
        self._moved = np.empty((self.groups * SQUARE, VEC), np.float32)
        self._moves = np.empty((self.groups, SQUARE + 1), np.int32)

    def move(self, at: int, steps: Sequence[Callable[[int], None]]) -> None:
        """Let the codes and scales of a square move, and all other columns know."""
        before = self.copy(self.errors, 1, at, SQUARE)
        for step in steps:
            step(at)
        find_moves(self.errors, before, at, SQUARE, self.columns, self._moved, self._moves)
        for start, end in ((0, at), (at + SQUARE, self.columns)):
            add_moves(self.block.moments, at, SQUARE, self._moved, self._moves, start, end, self.gradient, self.columns)

    def zeros(self, each: int, dtype: Any) -> NDArray[Any]:
        """An array in the lane form that has a row for ``each`` columns."""
        return np.zeros((self.groups * self.columns // each, VEC), dtype)

    def part(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """The rows for columns ``at`` to ``at + size`` of such an array, not a copy: [groups, rows, VEC]."""
        return lanes.reshape(self.groups, self.columns // each, VEC)[:, at // each : (at + size) // each]

    def copy(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """Likewise, as an array in the lane form of its own."""
        return self.part(lanes, each, at, size).copy().reshape(-1, VEC)


class Walker(ABC):
    """Codes of a state's columns. For each of the type's blocks ``begin``, and ``feed`` its squares in order; then
    ``descend`` and ``refit`` any number of times; ``write`` in the end."""

    def __init__(self, state: State, kind: QType, size: int, scales: Scales, offsets: Scales | None) -> None:
        self.state, self.kind, self.size = state, kind, size
        self._kinds = [scales] if offsets is None else [scales, offsets]
        self._values = [state.zeros(size, np.float32) for _ in range(2)]
        self._units = [state.zeros(size, np.float32) for _ in range(2)]
        self._ranges = [(kind.low, kind.high, float(kind.shift)) for kind in self._kinds] + [(1, 0, 0.0)]

    def begin(self, at: int, header: Bytes) -> None:
        """Take the scales from the encoded block [rows, block bytes] at a column."""
        for i, kind in enumerate(self._kinds):
            for target, source in zip((self._values[i], self._units[i]), kind.read(header), strict=True):
                lanes = to_lanes(np.asarray(source, np.float32)).reshape(self.state.groups, -1, VEC)
                self.state.part(target, self.size, at, self.kind.block_size)[:] = lanes

    @abstractmethod
    def feed(self, x: F32_ARRAY, x_at: int, x_columns: int, at: int) -> None:
        """Choose codes for a square of compensated weights; see ``scalar.feed``."""

    @abstractmethod
    def descend(self, at: int) -> None:
        """Move the codes of a square; see ``scalar.descend``."""

    def refit(self, at: int) -> None:
        """Move the scales of a square."""
        s = self.state
        refit(
            s.gradient, s.block.near_moments[at // SQUARE], self._values[0], self._units[0], self._ranges[0],
            self._values[1], self._units[1], self._ranges[1], self.size, s.weights, at, s.columns, s.errors,
        )  # fmt: skip

    def write(self, blocks: Bytes) -> None:
        """Codes and scales into the encoded blocks, [rows times blocks in a row, block bytes]."""
        for kind, values in zip(self._kinds, self._values, strict=False):
            kind.write(self._rows(values, self.size), blocks)

    def _rows(self, lanes: NDArray[Any], each: int) -> NDArray[Any]:
        """An array that has a row for ``each`` columns, block by block."""
        n = self.state.columns // each
        return from_lanes(lanes, self.state.n, n).reshape(-1, self.kind.block_size // each)


class _Scalar(Walker):
    def __init__(self, grid: Grid, state: State) -> None:
        super().__init__(state, grid.type, grid.size, grid.scales, grid.offsets)
        table = np.array(grid.table, np.float32)
        middles = (table[1:] + table[:-1]) / np.float32(2)
        self.grid = grid
        self._shape = (grid.size, grid.low, grid.high, middles, np.concatenate([table[:1], np.diff(table)]))
        self._codes = state.zeros(1, np.uint8)
        self._flat = np.float32(1) / state.block.curvature

    def feed(self, x: F32_ARRAY, x_at: int, x_columns: int, at: int) -> None:
        s = self.state
        scalar.feed(
            x, x_at, x_columns, s.block.near_factor[at // SQUARE], *self._values, *self._shape, s.weights, at,
            s.columns, s.errors, s.left, self._codes,
        )  # fmt: skip

    def descend(self, at: int) -> None:
        s = self.state
        scalar.descend(
            s.gradient, s.block.near_moments[at // SQUARE], self._flat, *self._values, *self._shape, s.weights, at,
            s.columns, s.errors, self._codes,
        )  # fmt: skip

    def write(self, blocks: Bytes) -> None:
        super().write(blocks)
        self.grid.write(self._rows(self._codes, 1), blocks)


class _Lattice(Walker):
    def __init__(self, octets: Octets, state: State) -> None:
        super().__init__(state, octets.type, octets.size, octets.scales, None)
        self.octets = octets
        self._book, self._work = lattice.book_of(octets), lattice.new_work()
        self._points = state.zeros(4, np.uint16)
        self._signs = state.zeros(8, np.uint8)
        self._cost = np.square(state.block.diagonal)

    def begin(self, at: int, header: Bytes) -> None:
        super().begin(at, header)
        shifts = to_lanes(self.octets.shifts(header)).reshape(self.state.groups, -1, VEC)
        self.state.part(self._signs, 8, at, self.kind.block_size)[:] = shifts

    def feed(self, x: F32_ARRAY, x_at: int, x_columns: int, at: int) -> None:
        s = self.state
        lattice.feed(
            x, x_at, x_columns, s.block.near_factor[at // SQUARE], self._values[0], self.size, self._book, self._work,
            self._cost, s.weights, at, s.columns, s.errors, s.left, self._points, self._signs,
        )  # fmt: skip

    def descend(self, at: int) -> None:
        s, square = self.state, at // SQUARE
        lattice.descend(
            s.gradient, s.block.near_moments[square], s.block.octets[square], s.block.curvature, self._values[0],
            self.size, self._book, self._work, s.weights, at, s.columns, s.errors, self._points, self._signs,
        )  # fmt: skip

    def write(self, blocks: Bytes) -> None:
        super().write(blocks)
        self.octets.write(self._rows(self._points, 4), self._rows(self._signs, 8), blocks)


def walker(kind: QType, state: State) -> Walker:
    """Of one of the types that are ``REFINED``."""
    return _Scalar(GRIDS[kind.name], state) if kind.name in GRIDS else _Lattice(OCTETS[kind.name], state)
