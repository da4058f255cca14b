"""Walkers choose the codes of scalar and lattice types, and move scales; ``rows.py`` calls them in the right order."""

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
from . import lattice_walk, scalar_walk
from .columns import Columns, Lanes, Moves
from .factor import Block
from .lattice_types import LATTICE_TYPES, LatticeType
from .products import SQUARE, add_moves, find_moves, from_lanes, to_lanes
from .refit import RefitScales, refit
from .scalar_types import SCALAR_TYPES, ScalarType
from .scales import Scales

# Passes of coordinate descent: as many as ten times the plain encoder's time allows, few where that one is fast.
PASSES = (
    dict.fromkeys([*SCALAR_TYPES, *LATTICE_TYPES], 4)
    | dict.fromkeys(["Q3_K", "Q6_K", "Q4_0", "Q5_0", "IQ1_M"], 1)
    | dict.fromkeys(["IQ1_S", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"], 2)
    | dict.fromkeys(["IQ2_S", "Q4_1"], 3)
)


class State:
    """The state of some rows over a block of columns.

    Args:
        rows: float32 [n, width].
        block: the second moments of the columns.

    Attributes:
        lanes: weights, errors and gradient in the lane form.
        groups: of ``VEC`` rows.
    """

    def __init__(self, rows: F32_ARRAY, block: Block) -> None:
        self.n, self.columns, self.block = len(rows), block.width, block
        weights = to_lanes(rows)
        self.groups = len(weights) // block.width
        empty = np.empty_like
        self.lanes = Lanes(weights, empty(weights), empty(weights), np.zeros_like(weights), block.width)
        self.errors, self.left, self.gradient = (
            Columns(array, 0, block.width) for array in (self.lanes.errors, self.lanes.left, self.lanes.gradient)
        )
        moved = np.empty((self.groups, SQUARE + 1), np.int32)
        self._moves = Moves(np.empty((self.groups * SQUARE, VEC), np.float32), moved)

    def move(self, at: int, steps: Sequence[Callable[[int], None]]) -> None:
        """Let the codes and scales of a square move, and all other columns know."""
        before = self.copy(self.lanes.errors, 1, at, SQUARE)
        for step in steps:
            step(at)
        find_moves(self.errors._replace(at=at), before, SQUARE, self._moves)
        for start, end in ((0, at), (at + SQUARE, self.columns)):
            add_moves(self.block.moments, at, SQUARE, self._moves, start, end, self.gradient._replace(at=start))

    def zeros(self, each: int, dtype: Any) -> NDArray[Any]:
        """Return an array of zeros in the lane form that has a row for ``each`` columns."""
        return np.zeros((self.groups * self.columns // each, VEC), dtype)

    def part(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """Return the rows of such an array for columns ``at`` to ``at + size``, not a copy: [groups, rows, VEC]."""
        return lanes.reshape(self.groups, self.columns // each, VEC)[:, at // each : (at + size) // each]

    def copy(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """Return the same rows as an array in the lane form of its own."""
        return self.part(lanes, each, at, size).copy().reshape(-1, VEC)


class Walker(ABC):
    """Chooses the codes of a state's columns. For each of the type's blocks call ``begin``, and ``feed`` its squares in
    order; then ``descend`` and ``refit`` any number of times; ``write`` in the end."""

    def __init__(self, state: State, kind: QType, size: int, scales: Scales, offsets: Scales | None) -> None:
        self.state, self.kind, self.size = state, kind, size
        self._kinds = [scales] if offsets is None else [scales, offsets]
        ranges = [(k.low, k.high, float(k.shift), k.mantissa, float(k.largest)) for k in self._kinds]
        ranges.append((1, 0, 0.0, 0, 0.0))
        self._scales, self._offsets = (
            RefitScales(state.zeros(size, np.float32), state.zeros(size, np.float32), *ranges[i]) for i in range(2)
        )

    def begin(self, at: int, header: Bytes) -> None:
        """Take the scales from the encoded block [rows, block bytes] at a column."""
        for refit_scales, kind in zip((self._scales, self._offsets), self._kinds, strict=False):
            for target, source in zip((refit_scales.values, refit_scales.units), kind.read(header), strict=True):
                lanes = to_lanes(np.asarray(source, np.float32)).reshape(self.state.groups, -1, VEC)
                self.state.part(target, self.size, at, self.kind.block_size)[:] = lanes

    @abstractmethod
    def feed(self, compensated: Columns, at: int) -> None:
        """Choose codes for a square of compensated weights; see ``scalar_walk.feed``."""

    @abstractmethod
    def descend(self, at: int) -> None:
        """Move the codes of a square; see ``scalar_walk.descend``."""

    def refit(self, at: int) -> None:
        """Move the scales of a square."""
        near = self.state.block.near_moments[at // SQUARE]
        refit(self.state.lanes, at, near, self.size, self._scales, self._offsets)

    def write(self, blocks: Bytes) -> None:
        """Write codes and scales into the encoded blocks, [rows times blocks in a row, block bytes]."""
        for kind, scales in zip(self._kinds, (self._scales, self._offsets), strict=False):
            kind.write(self._rows(scales.values, self.size), blocks)

    def _rows(self, lanes: NDArray[Any], each: int) -> NDArray[Any]:
        """Return an array that has a row for ``each`` columns, block by block."""
        n = self.state.columns // each
        return from_lanes(lanes, self.state.n, n).reshape(-1, self.kind.block_size // each)


class _ScalarWalker(Walker):
    def __init__(self, kind: ScalarType, state: State) -> None:
        super().__init__(state, kind.type, kind.size, kind.scales, kind.offsets)
        self._write = kind.write
        table = np.array(kind.table, np.float32)
        middles = (table[1:] + table[:-1]) / np.float32(2)
        steps = np.concatenate([table[:1], np.diff(table)])
        self._codes = scalar_walk.ScalarCodes(
            state.zeros(1, np.uint8), self._scales.values, self._offsets.values, kind.size, kind.low, kind.high,
            middles, steps,
        )  # fmt: skip
        self._inverse_curvature = np.float32(1) / state.block.curvature

    def feed(self, compensated: Columns, at: int) -> None:
        near = self.state.block.near_factor[at // SQUARE]
        scalar_walk.feed(self.state.lanes, at, near, compensated, self._codes)

    def descend(self, at: int) -> None:
        near = self.state.block.near_moments[at // SQUARE]
        scalar_walk.descend(self.state.lanes, at, near, self._inverse_curvature, self._codes)

    def write(self, blocks: Bytes) -> None:
        super().write(blocks)
        self._write(self._rows(self._codes.codes, 1), blocks)


class _LatticeWalker(Walker):
    def __init__(self, kind: LatticeType, state: State) -> None:
        super().__init__(state, kind.type, kind.size, kind.scales, None)
        self._type = kind
        self._codebook, self._octet = lattice_walk.walk_codebook(kind), lattice_walk.new_octet()
        points, signs = state.zeros(4, np.uint16), state.zeros(8, np.uint8)
        self._codes = lattice_walk.LatticeCodes(self._scales.values, kind.size, points, signs)
        self._cost = np.square(state.block.diagonal)

    def begin(self, at: int, header: Bytes) -> None:
        super().begin(at, header)
        shifts = to_lanes(self._type.shifts(header)).reshape(self.state.groups, -1, VEC)
        self.state.part(self._codes.signs, 8, at, self.kind.block_size)[:] = shifts

    def feed(self, compensated: Columns, at: int) -> None:
        lanes, near = self.state.lanes, self.state.block.near_factor[at // SQUARE]
        lattice_walk.feed(lanes, at, near, compensated, self._cost, self._codes, self._codebook, self._octet)

    def descend(self, at: int) -> None:
        lanes, block, square = self.state.lanes, self.state.block, at // SQUARE
        lattice_walk.descend(
            lanes, at, block.near_moments[square], block.octets[square], block.curvature, self._codes, self._codebook,
            self._octet,
        )  # fmt: skip

    def write(self, blocks: Bytes) -> None:
        super().write(blocks)
        self._type.write(self._rows(self._codes.points, 4), self._rows(self._codes.signs, 8), blocks)


def walker(kind: QType, state: State) -> Walker:
    """Return a walker for one of the types that are ``REFINED``."""
    if kind.name in SCALAR_TYPES:
        return _ScalarWalker(SCALAR_TYPES[kind.name], state)
    return _LatticeWalker(LATTICE_TYPES[kind.name], state)
