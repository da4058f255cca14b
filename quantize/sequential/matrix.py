"""Choose how to encode a matrix by what each way costs on inputs that none of them has seen, and encode it so.

Arrays are copied into tensors: torch's memory is aligned, and how a product is rounded may depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

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
class Choice:
    """The way that was chosen for a matrix, by a sample of its rows.

    Args:
        way: how it will be encoded.
        cost: the squared error that this adds to the output on the inputs that were kept aside, by token.
        plain: the same of the plain encoder.
        signal: the output's own square, likewise.
    """

    way: Way
    cost: float
    plain: float
    signal: float


@dataclass(frozen=True)
class Matrix:
    """A matrix to encode.

    Args:
        tensor: the tensor that holds it, of a float type.
        matrix: its number in the tensor.
        kind: the type to encode in.
    """

    tensor: Tensor
    matrix: int
    kind: QType

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return self.tensor.shape[-2]

    def choose(self, seen: Known, aside: Known, width: int | None, each: EachPart) -> Choice:
        """Try all ways on a sample of the rows.

        Args:
            seen: what is known of the matrix's inputs.
            aside: the same of those that were kept aside, which judge.
            width: the only width of blocks to try, or None.
            each: calls a function for each part of the work, on several threads.

        Raises:
            WeightError: a weight is NaN or infinite, or too large for the type.
            PlanError: the inputs' moments have no factor.
        """
        rows = slice(0, self.n_rows, max(1, self.n_rows // _SAMPLE))
        x = torch.tensor(self._read(rows))
        unseen = aside.sums.drift(self.tensor.name, rows, x)
        costs: dict[Way, float] = {}

        def judge(tried: Sequence[Way]) -> Way:
            def one(part: slice) -> None:
                way = tried[part.start]
                change = torch.tensor(self._decoded(self._encode(way, seen, rows))) - x
                found[part.start] = float(losses(change, unseen, aside.mean).sum())

            found = [0.0] * len(tried)
            each(one, [slice(i, i + 1) for i in range(len(tried))])
            costs.update(zip(tried, found, strict=True))
            return min(costs, key=lambda way: costs[way])  # the first of equals, which is the simpler

        way = judge([PLAIN, *ways(self.tensor.width, self.kind, width, self._ridge(seen, aside, rows))])
        if more := dampings(way):
            way = judge(more)
        return Choice(way, costs[way], costs[PLAIN], float(losses(x, None, aside.mean).sum()))

    def encode(self, way: Way, seen: Known, each: EachPart) -> Bytes:
        """Encode all rows: uint8 [rows, row bytes]. Arguments and errors are those of ``choose``."""
        data = np.empty((self.n_rows, self.kind.row_bytes(self.tensor.width)), np.uint8)

        def part(rows: slice) -> None:
            data[rows] = self._encode(way, seen, rows)

        each(part, [slice(a, min(a + _ROWS, self.n_rows)) for a in range(0, self.n_rows, _ROWS)])
        return data

    def _ridge(self, seen: Known, aside: Known, rows: slice) -> float:
        """The damping with which moved weights, before they are encoded, cost least; 0 where none lessens the cost."""
        if not (seen.sums.paired and aside.sums.paired):
            return 0.0
        x = torch.tensor(self._read(rows))
        drift, unseen = (known.sums.drift(self.tensor.name, rows, x) for known in (seen, aside))
        assert drift is not None
        costs = {0.0: 0.0}
        for ridge in RIDGES:
            if (factor := seen.factor(ridge)) is not None:
                change = retarget(x, drift, factor) - x
                costs[ridge] = float(losses(change, unseen, aside.mean).sum())
        return min(costs, key=lambda ridge: costs[ridge])

    def _encode(self, way: Way, seen: Known, rows: slice) -> Bytes:
        """Some rows encoded."""
        target = self._read(rows)
        factor = seen.factor(way.ridge) if way.ridge else None
        if factor is not None:
            x = torch.tensor(target)
            drift = seen.sums.drift(self.tensor.name, rows, x)
            assert drift is not None
            target = np.ascontiguousarray(retarget(x, drift, factor).numpy())
        out = np.empty((len(target), self.kind.row_bytes(target.shape[1])), np.uint8)
        if way.width:
            encode_refined(target, self.kind, seen.blocks(way.width, way.damping), out)
            self._refuse(find_overflow(target.view(np.uint8), F32, self.kind, out), rows)
        else:
            self._refuse(encode_checked(target.view(np.uint8), F32, self.kind, seen.importance, out), rows)
        return out

    def _decoded(self, blocks: Bytes) -> F32_ARRAY:
        floats = np.empty((len(blocks), self.tensor.width), np.float32)
        kernel_for(self.kind).decode(blocks, floats)
        return floats

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
