"""Walkers choose the codes of scalar and lattice types, and move scales; ``rows.py`` calls them in the right order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import QType
from ..kernels.contract import F32_ARRAY
from ..kernels.simd import VEC
from . import lattice_walk, scalar_walk
from .columns import Columns, Lanes, Metric, new_scratch
from .factor import Block, Panel
from .integers import add_whole, new_error_digits, set_digits
from .lattice_types import LATTICE_TYPES, LatticeType
from .products import new_lanes, to_lanes
from .refit import RefitScales
from .scalar_types import SCALAR_TYPES, ScalarType
from .scales import Scales
from .squares import look_ahead

# Passes of coordinate descent, few where the plain encoder is fast; of a block of several panels, rounds over them.
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
        scratch: for the walks.
    """

    def __init__(self, rows: F32_ARRAY, block: Block) -> None:
        self.n, self.columns, self.block = len(rows), block.width, block
        weights = to_lanes(rows)
        self.groups = len(weights) // block.width
        errors, left, gradient = (new_lanes(len(weights)) for _ in range(3))
        lost = np.zeros(self.groups * VEC, np.float32)
        self.lanes = Lanes(weights, errors, left, gradient, block.width, lost)
        self.errors, self.left, self.gradient = (Columns(array, 0, block.width) for array in (errors, left, gradient))
        self.scratch = new_scratch()
        if block.others:
            self._digits = new_error_digits(self.groups, block.width, len(block.others.factor.tiles) > 0)

    @property
    def lost(self) -> F32_ARRAY:
        """The loss of each row so far, float32 [n]."""
        lost: F32_ARRAY = self.lanes.lost[: self.n]
        return lost

    def look_ahead(self, panel: Panel) -> None:
        """Set a panel's gradient to the one that is left once later columns have repaired what they can."""
        look_ahead(self.lanes, panel.first, panel.width, panel.turned)

    def look_back(self, panel: Panel) -> Columns:
        """Return what the weights of a panel have become by the errors of the panels before."""
        x = Columns(self.copy(self.lanes.weights, 1, panel.first, panel.width), 0, panel.width)
        if self.block.others and panel.first:
            end = panel.first + panel.width
            add_whole(self.block.others.factor, self._digits, 0, panel.first, panel.first, end, x)
        return x

    def look_around(self, panel: Panel) -> None:
        """Set a panel's gradient to the one over all columns as they are."""
        assert self.block.others
        self.part(self.lanes.gradient, 1, panel.first, panel.width)[:] = 0
        end, gradient = panel.first + panel.width, self.gradient._replace(at=panel.first)
        add_whole(self.block.others.moments, self._digits, 0, self._digits.width, panel.first, end, gradient)

    def settle(self, panel: Panel) -> None:
        """Let the other panels know a panel's errors."""
        if self.block.others:
            set_digits(self.errors._replace(at=panel.first), panel.width, self._digits)

    def zeros(self, each: int, dtype: Any) -> NDArray[Any]:
        """Return an array of zeros in the lane form that has a row for ``each`` columns."""
        return new_lanes(self.groups * self.columns // each, dtype)

    def part(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """Return the rows of such an array for columns ``at`` to ``at + size``, not a copy: [groups, rows, VEC]."""
        return lanes.reshape(self.groups, self.columns // each, VEC)[:, at // each : (at + size) // each]

    def copy(self, lanes: NDArray[Any], each: int, at: int, size: int) -> NDArray[Any]:
        """Return the same rows as an array in the lane form of its own."""
        part = self.part(lanes, each, at, size)
        own = new_lanes(part.size // VEC, lanes.dtype)
        own.reshape(part.shape)[:] = part
        return own


class Walker(ABC):
    """Chooses the codes of a state's columns. Call ``begin`` and ``feed`` for each of the type's blocks in order,
    ``sweep`` for each panel once its gradient is known, any number of times, and ``write`` in the end.

    Attributes:
        quick: whether choosing codes costs little beside the rest of a sweep.
    """

    quick = True

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
        header = np.asfortranarray(header)  # numpy's inner loops run over rows then, not over a few bytes
        for refit_scales, kind in zip((self._scales, self._offsets), self._kinds, strict=False):
            for target, source in zip((refit_scales.values, refit_scales.units), kind.read(header), strict=True):
                lanes = to_lanes(source.astype(np.float32)).reshape(self.state.groups, -1, VEC)
                self.state.part(target, self.size, at, self.kind.block_size)[:] = lanes

    @abstractmethod
    def feed(self, compensated: Columns, at: int) -> None:
        """Choose the codes of a block of compensated weights from column ``at`` on; see ``scalar_walk.feed``."""

    @abstractmethod
    def sweep(self, panel: Panel, metric: Metric, passes: int, again: int) -> None:
        """Move the codes and scales of a panel; see ``scalar_walk.sweep``."""

    def write(self, headers: Sequence[Bytes]) -> Bytes:
        """Write codes and scales into the encoded blocks.

        Args:
            headers: uint8 [rows, block bytes], of each of the type's blocks the one that ``begin`` had.

        Returns:
            uint8 [rows, blocks times block bytes].
        """
        rows = self.state.groups * VEC
        planes = np.zeros((self.kind.block_bytes, len(headers), rows), np.uint8)
        for i, header in enumerate(headers):
            planes[:, i, : self.state.n] = header.T
        blocks = planes.reshape(len(planes), -1).T
        for kind, scales in zip(self._kinds, (self._scales, self._offsets), strict=False):
            kind.write(self._blocks(scales.values, self.size), blocks)
        self._write_codes(blocks)
        encoded: Bytes = planes[:, :, : self.state.n].transpose(2, 1, 0).reshape(self.state.n, -1)
        return encoded

    @abstractmethod
    def _write_codes(self, blocks: Bytes) -> None:
        """Write the codes into blocks, [blocks times rows, block bytes], column by column."""

    def _blocks(self, lanes: NDArray[Any], each: int) -> NDArray[Any]:
        """Return an array that has a row for ``each`` columns as such blocks."""
        size = self.kind.block_size // each
        planes = lanes.reshape(self.state.groups, -1, size, VEC).transpose(2, 1, 0, 3)
        return np.ascontiguousarray(planes).reshape(size, -1).T


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

    def feed(self, compensated: Columns, at: int) -> None:
        state = self.state
        scalar_walk.feed(
            state.lanes, at, self.kind.block_size, state.block.factor, state.block.diagonal, compensated, self._codes,
            state.scratch,
        )  # fmt: skip

    def sweep(self, panel: Panel, metric: Metric, passes: int, again: int) -> None:
        lanes, scratch = self.state.lanes, self.state.scratch
        scalar_walk.sweep(lanes, panel.first, metric, passes, again, self._codes, self._scales, self._offsets, scratch)

    def _write_codes(self, blocks: Bytes) -> None:
        self._write(self._blocks(self._codes.codes, 1), blocks)


class _LatticeWalker(Walker):
    quick = False

    def __init__(self, kind: LatticeType, state: State) -> None:
        super().__init__(state, kind.type, kind.size, kind.scales, None)
        self._type = kind
        self._codebook, self._octet = lattice_walk.walk_codebook(kind), lattice_walk.new_octet()
        points, signs = state.zeros(4, np.uint16), state.zeros(8, np.uint8)
        self._codes = lattice_walk.LatticeCodes(self._scales.values, kind.size, points, signs)

    def begin(self, at: int, header: Bytes) -> None:
        super().begin(at, header)
        shifts = to_lanes(self._type.shifts(header)).reshape(self.state.groups, -1, VEC)
        self.state.part(self._codes.signs, 8, at, self.kind.block_size)[:] = shifts

    def feed(self, compensated: Columns, at: int) -> None:
        state = self.state
        lattice_walk.feed(
            state.lanes, at, self.kind.block_size, state.block.factor, state.block.diagonal, compensated, self._codes,
            self._codebook, self._octet, state.scratch,
        )  # fmt: skip

    def sweep(self, panel: Panel, metric: Metric, passes: int, again: int) -> None:
        lanes, scratch = self.state.lanes, self.state.scratch
        lattice_walk.sweep(
            lanes, panel.first, metric, passes, again, self._codes, self._codebook, self._octet, self._scales,
            self._offsets, scratch,
        )  # fmt: skip

    def _write_codes(self, blocks: Bytes) -> None:
        self._type.write(self._blocks(self._codes.points, 4), self._blocks(self._codes.signs, 8), blocks)


def walker(kind: QType, state: State) -> Walker:
    """Return a walker for one of the types that are ``REFINED``."""
    if kind.name in SCALAR_TYPES:
        return _ScalarWalker(SCALAR_TYPES[kind.name], state)
    return _LatticeWalker(LATTICE_TYPES[kind.name], state)
