"""Second moments in an importance matrix file: S = sum_t x_t x_t^T over the inputs x_t of each matrix.

S is stored as diagonal blocks of ``block_width`` columns (the last one may be narrower) in float32: the lower triangle
of each block, row by row. Matrices with the same inputs (q, k and v; gate and up) share one tensor,
``<holder>.moments``, named after one of them; stacked experts follow each other in it. The metadata says which tensors
share: ``quantmill.moments.tensors`` and ``.inputs`` are parallel, every tensor that has moments, and its holder.
llama.cpp's loader reads the tensors whose suffix it knows, and ignores these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, PlanError
from .ir import Metadata, Model, Tensor, Value, ValueType

SUFFIX = ".moments"
_PREFIX = "quantmill.moments."
BLOCK_WIDTH, TENSORS, INPUTS = (_PREFIX + key for key in ("block_width", "tensors", "inputs"))

Packed = NDArray[np.float32]
_REMAKE = "make the file again: quantmill imatrix --second-moments"


def block_bounds(width: int, block_width: int) -> list[tuple[int, int]]:
    """The columns [start, end) of each block."""
    return [(start, min(start + block_width, width)) for start in range(0, width, block_width)]


def packed_size(width: int, block_width: int) -> int:
    """The count of numbers in a matrix's packed blocks."""
    full, rest = divmod(width, block_width)
    return full * (block_width * (block_width + 1) // 2) + rest * (rest + 1) // 2


def pack(block: NDArray[Any], out: Packed) -> None:
    """Write the lower triangle of a symmetric matrix [b, b], row by row, to float32 [b * (b + 1) / 2]."""
    for i in range(len(block)):
        start = i * (i + 1) // 2
        out[start : start + i + 1] = block[i, : i + 1]


def unpack(packed: Packed, width: int) -> NDArray[np.float64]:
    """Undo ``pack``: the symmetric matrix, float64 [width, width]."""
    block = np.empty((width, width))
    for i in range(width):
        start = i * (i + 1) // 2
        block[i, : i + 1] = packed[start : start + i + 1]
        block[:i, i] = block[i, :i]
    return block


@dataclass(frozen=True)
class Moments:
    """Second moments of a file, loaded one matrix at a time. Thread-safe.

    Args:
        block_width: columns in a block.
        inputs: each tensor's holder, a tensor with the same inputs.
        widths: columns of each holder.
        counts: inputs seen by each matrix of a tensor, int64 [n_matrices].
        load: ``load(holder, matrix)`` returns the packed sums, float32 [packed_size(width, block_width)].
        path: the file, for messages.
    """

    block_width: int
    inputs: Mapping[str, str] = field(repr=False)
    widths: Mapping[str, int] = field(repr=False)
    counts: Mapping[str, NDArray[np.int64]] = field(repr=False)
    load: Callable[[str, int], Packed] = field(repr=False, compare=False)
    path: Path | None = None

    @property
    def holders(self) -> list[str]:
        """The holders, sorted: one for each distinct input."""
        return sorted(set(self.inputs.values()))

    def holder(self, name: str) -> str | None:
        """The tensor under whose name a tensor's moments are stored; None if it has no moments."""
        return self.inputs.get(name)

    def width(self, name: str) -> int:
        """Columns of a tensor.

        Raises:
            PlanError: it has no second moments. The methods below raise it, too.
        """
        return self.widths[self._holder(name)]

    def n_matrices(self, name: str) -> int:
        """Experts in a stack; 1 for a plain matrix."""
        return int(self.counts[self._holder(name)].size)

    def count(self, name: str, matrix: int = 0) -> int:
        """Inputs seen by a matrix."""
        self._holder(name, matrix)
        return int(self.counts[name][matrix])

    def packed(self, name: str, matrix: int = 0) -> Packed:
        """Load the packed sums of a matrix, its blocks in the order of their columns.

        Raises:
            FormatError: a sum is not finite.
        """
        packed = self.load(self._holder(name, matrix), matrix)
        if not np.isfinite(packed).all():
            problem = f"a sum of matrix {matrix} is not finite"
            raise FormatError(problem, path=self.path, where=self._holder(name) + SUFFIX, hint=_REMAKE)
        return packed

    def blocks(self, name: str, matrix: int = 0) -> list[NDArray[np.float64]]:
        """Load the means of x x^T: a symmetric [b, b] for each block of columns; zeros for an expert without input."""
        packed = self.packed(name, matrix)
        count = max(1, self.count(name, matrix))
        found = []
        at = 0
        for start, end in block_bounds(self.width(name), self.block_width):
            size = packed_size(end - start, end - start)
            found.append(unpack(packed[at : at + size], end - start) / count)
            at += size
        return found

    def metadata(self) -> Metadata:
        """The metadata keys of second moments."""
        names = sorted(self.inputs)
        holders = tuple(self.inputs[name] for name in names)
        return {
            BLOCK_WIDTH: Value(ValueType.UINT32, self.block_width),
            TENSORS: Value(ValueType.ARRAY, tuple(names), ValueType.STRING),
            INPUTS: Value(ValueType.ARRAY, holders, ValueType.STRING),
        }

    def shape(self, holder: str) -> tuple[int, int]:
        """The shape of a holder's tensor in the file: (matrices, numbers in each)."""
        return self.n_matrices(holder), packed_size(self.widths[holder], self.block_width)

    @property
    def nbytes(self) -> int:
        """Bytes of all these tensors in the file."""
        return sum(4 * math.prod(self.shape(holder)) for holder in self.holders)

    def _holder(self, name: str, matrix: int = 0) -> str:
        holder = self.inputs.get(name)
        if holder is None:
            raise PlanError("has no second moments", path=self.path, where=name, hint=_REMAKE)
        n = self.counts[name].size
        if not 0 <= matrix < n:
            raise PlanError(f"has {n} matrices, but no matrix {matrix}", path=self.path, where=name)
        return holder


def read_moments(model: Model, sizes: Mapping[str, tuple[int, NDArray[np.int64]]]) -> Moments | None:
    """Read the second moments of an importance matrix file; None if it has none.

    Args:
        model: the file.
        sizes: for each tensor of its entries, the columns and the inputs seen by each matrix.

    Raises:
        FormatError: keys or tensors are missing, or contradict each other.
    """
    given = [key for key in (BLOCK_WIDTH, TENSORS, INPUTS) if key in model.metadata]
    if not given:
        return None
    fail = _Failure(model.path)
    missing = {BLOCK_WIDTH, TENSORS, INPUTS} - set(given)
    if missing:
        raise fail(f"missing, though the file has {given[0]}", min(missing))
    stored_width = model.metadata[BLOCK_WIDTH]
    block_width = stored_width.data if isinstance(stored_width.data, int) else 0
    if stored_width.type is not ValueType.UINT32 or not block_width:
        raise fail(f"must be a uint32 above 0, is {stored_width.data!r:.40}", BLOCK_WIDTH)
    inputs = _inputs(model, fail)
    stored = {tensor.name: tensor for tensor in model.tensors}
    holders = {}
    for name, holder in inputs.items():
        without = next((each for each in (name, holder) if each not in sizes), None)
        if without is not None:
            raise fail(f"has second moments, but no sums for {without!r}", name)
        if inputs.get(holder) != holder or holder + SUFFIX not in stored:
            raise fail(f"shares the second moments of {holder!r}, which has none", name)
        width, counts = sizes[holder]
        if sizes[name][0] != width or sizes[name][1].size != counts.size:
            raise fail(f"shares the second moments of {holder!r}, but has other columns", name)
        holders[holder] = _checked(stored[holder + SUFFIX], counts.size, packed_size(width, block_width), fail)
    return Moments(
        block_width,
        inputs,
        {holder: sizes[holder][0] for holder in holders},
        {name: sizes[name][1] for name in inputs},
        lambda holder, matrix: holders[holder].rows(matrix, matrix + 1).reshape(-1).view("<f4"),
        model.path,
    )


@dataclass(frozen=True)
class _Failure:
    path: Path | None

    def __call__(self, problem: str, where: str) -> FormatError:
        return FormatError(problem, path=self.path, where=where, hint=f"the file is damaged: {_REMAKE}")


def _inputs(model: Model, fail: _Failure) -> dict[str, str]:
    """Read each tensor's holder."""
    rows = []
    for key in (TENSORS, INPUTS):
        value = model.metadata[key]
        if value.type is not ValueType.ARRAY or value.item is not ValueType.STRING:
            raise fail("is not an array of strings", key)
        rows.append(value.texts)
    names, holders = rows
    if len(names) != len(holders):
        raise fail(f"{len(holders)} holders for {len(names)} tensors", INPUTS)
    if len(set(names)) != len(names):
        raise fail("a tensor is named twice", TENSORS)
    return dict(zip(names, holders, strict=True))


def _checked(tensor: Tensor, n_matrices: int, size: int, fail: _Failure) -> Tensor:
    if tensor.qtype.name != "F32":
        raise fail(f"is {tensor.qtype}, must be F32", tensor.name)
    wanted = (size,) if n_matrices == 1 else (n_matrices, size)
    if tensor.shape != wanted:
        raise fail(f"has shape {list(tensor.shape)}, must have {list(wanted)}", tensor.name)
    return tensor
