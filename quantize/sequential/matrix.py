"""Encode one matrix in the way that costs least on inputs which none of the ways has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...formats.floats import to_f32
from ...formats.ir import Bytes, Tensor
from ...formats.qtypes import F32, QType
from ..encode import BadWeight, bad_weight, encode_checked, find_nonfinite, find_overflow
from ..kernels import kernel_for
from ..kernels.contract import F32_ARRAY
from ..refine.rows import encode_refined
from .targets import RIDGES, losses, retarget
from .ways import PLAIN, Known, Way, dampings, ways

_SAMPLE = 64  # rows that each way is tried on
_ROWS = 1024  # at a time: refining is many short calls, whatever the rows

EachPart = Callable[[Callable[[slice], None], Iterable[slice]], object]


@dataclass(frozen=True)
class Encoded:
    """An encoded matrix.

    Args:
        data: uint8 [rows, row bytes].
        way: how it was encoded.
        cost: the squared error that it adds to the output on the inputs that were kept aside, by token.
        signal: the output's own square, likewise.
    """

    data: Bytes
    way: Way
    cost: float
    signal: float


@dataclass(frozen=True)
class Matrix:
    """A matrix to encode.

    Args:
        tensor: the tensor that holds it, of a float type.
        matrix: its number in the tensor.
        kind: the type to encode in.
        seen: what is known of its inputs.
        aside: the same of those that were kept aside.
        width: the only width of blocks to try, or None.
    """

    tensor: Tensor
    matrix: int
    kind: QType
    seen: Known
    aside: Known
    width: int | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return self.tensor.shape[-2]

    def encode(self, each: EachPart) -> tuple[Encoded, Encoded]:
        """Try all ways on a sample of the rows, and encode all rows in the best and in the plain one.

        Args:
            each: calls a function for each part of the rows, on several threads.

        Returns:
            the better of the two, and the plain one.

        Raises:
            WeightError: a weight is NaN or infinite, or too large for the type.
            PlanError: the inputs' moments have no factor.
        """
        sample = slice(0, self.n_rows, max(1, self.n_rows // _SAMPLE))
        plain = self._all(PLAIN, each)
        way = self._best(ways(self.tensor.width, self.kind, self.width, self._ridge(sample)), sample, each)
        way = self._best(dampings(way), sample, each)
        best = plain if way == PLAIN else self._all(way, each)
        return best if best.cost <= plain.cost else plain, plain

    def _best(self, tried: Sequence[Way], rows: slice, each: EachPart) -> Way:
        """The way that costs least on some rows; the first of equals."""
        costs = [0.0] * len(tried)

        def one(part: slice) -> None:
            costs[part.start] = float(self._encode(tried[part.start], rows)[1].sum())

        if len(tried) > 1:
            each(one, [slice(i, i + 1) for i in range(len(tried))])
        return tried[int(np.argmin(costs))]

    def _ridge(self, rows: slice) -> float:
        """The damping with which moved weights, before they are encoded, cost least; 0 where none lessens the cost."""
        if not (self.seen.sums.paired and self.aside.sums.paired):
            return 0.0
        x = torch.from_numpy(self._read(rows))
        drift, unseen = (known.sums.drift(self.tensor.name, rows, x) for known in (self.seen, self.aside))
        assert drift is not None
        costs = {0.0: 0.0}
        for ridge in RIDGES:
            if (factor := self.seen.factor(ridge)) is not None:
                change = retarget(x, drift, factor) - x
                costs[ridge] = float(losses(change, unseen, self.aside.mean).sum())
        return min(costs, key=lambda ridge: costs[ridge])

    def _all(self, way: Way, each: EachPart) -> Encoded:
        data = np.empty((self.n_rows, self.kind.row_bytes(self.tensor.width)), np.uint8)
        costs, signals = np.empty(self.n_rows), np.empty(self.n_rows)

        def part(rows: slice) -> None:
            data[rows], costs[rows], signals[rows] = self._encode(way, rows)

        each(part, [slice(a, min(a + _ROWS, self.n_rows)) for a in range(0, self.n_rows, _ROWS)])
        return Encoded(data, way, float(costs.sum()), float(signals.sum()))

    def _encode(self, way: Way, rows: slice) -> tuple[Bytes, NDArray[np.float64], NDArray[np.float64]]:
        """Some rows encoded: their bytes, what each costs, and its output's square."""
        weights = self._read(rows)
        name, x = self.tensor.name, torch.from_numpy(weights)
        target = weights
        if way.ridge:
            drift, factor = self.seen.sums.drift(name, rows, x), self.seen.factor(way.ridge)
            assert drift is not None
            assert factor is not None
            target = np.ascontiguousarray(retarget(x, drift, factor).numpy())
        out = np.empty((len(weights), self.kind.row_bytes(weights.shape[1])), np.uint8)
        if way.width:
            encode_refined(target, self.kind, self.seen.blocks(way.width, way.damping), out)
            self._refuse(find_overflow(target.view(np.uint8), F32, self.kind, out), rows)
        else:
            self._refuse(encode_checked(target.view(np.uint8), F32, self.kind, self.seen.importance, out), rows)
        decoded = np.empty_like(weights)
        kernel_for(self.kind).decode(out, decoded)
        mean = self.aside.mean
        cost = losses(torch.from_numpy(decoded) - x, self.aside.sums.drift(name, rows, x), mean)
        return out, cost.numpy(), losses(x, None, mean).numpy()

    def _read(self, rows: slice) -> F32_ARRAY:
        """Rows of the matrix as float32 [rows, width]."""
        numbers, first = range(self.n_rows)[rows], self.matrix * self.n_rows
        if numbers.step == 1:
            raw = self.tensor.rows(first + numbers.start, first + numbers.stop)
        else:
            raw = np.concatenate([self.tensor.rows(first + row, first + row + 1) for row in numbers])
        raw = np.ascontiguousarray(raw)
        self._refuse(find_nonfinite(raw, self.tensor.qtype), rows)
        return np.ascontiguousarray(to_f32(raw, self.tensor.qtype).reshape(len(numbers), self.tensor.width))

    def _refuse(self, bad: BadWeight | None, rows: slice) -> None:
        if bad is not None:
            raise bad_weight(self.tensor, self.matrix * self.n_rows + range(self.n_rows)[rows][bad.row], bad)
