"""Operations on tensors between a checkpoint and GGUF: small, frozen and lazy, each with its inverse.

An op maps a tuple of lazy tensors to another. The ops here only move rows or values: they work on raw bytes of any
type. A vector counts as a matrix of one column, so that a bias is treated like its weight. Ops that compute are in
``values.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...ir import Bytes, Tensor
from .dimensions import Config, Dim, Rotary
from .reads import OfParts

Tensors = tuple[Tensor, ...]
Rows = NDArray[np.intp]
Shape = tuple[Dim | int, ...]


class Op(Protocol):
    """One step. ``apply`` must not read a weight.

    ``inverse`` undoes it, exactly unless ``exact`` is False: then ``load.py`` records the values that it cannot
    restore.
    """

    @property
    def exact(self) -> bool: ...

    def apply(self, tensors: Tensors, config: Config) -> Tensors: ...

    @property
    def inverse(self) -> Op: ...


class RowOp(OfParts):
    """The base of ops that move rows. They treat a vector as a column."""

    exact = True

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        if any(len(tensor.shape) > 1 for tensor in tensors):
            return self.move(tensors, config)
        return tuple(_as_vector(tensor) for tensor in self.move(tuple(map(_as_column, tensors)), config))

    @abstractmethod
    def move(self, tensors: Tensors, config: Config) -> Tensors: ...


def _as_column(tensor: Tensor) -> Tensor:
    """See a vector [n] as a column [n, 1]."""

    def read(a: int, b: int) -> Bytes:
        whole = np.ascontiguousarray(tensor.rows(0, 1))
        return whole.reshape(tensor.width, tensor.qtype.block_bytes)[a:b]

    return replace(tensor, shape=(*tensor.shape, 1), read=read)


def _as_vector(tensor: Tensor) -> Tensor:
    """See a column [n, 1] as a vector [n]."""
    vector = replace(tensor, shape=tensor.shape[:1])

    def read(a: int, b: int) -> Bytes:
        return np.ascontiguousarray(tensor.rows(0, tensor.n_rows)).reshape(1, vector.row_bytes)[a:b]

    return replace(vector, read=read)


def moved_rows(tensor: Tensor, shape: tuple[int, ...], source_of: Callable[[Rows], Rows]) -> Tensor:
    """Make a tensor of a shape whose row i is the row ``source_of(i)`` of another tensor of the same width."""

    def read(a: int, b: int) -> Bytes:
        if a == b:
            return tensor.rows(0, 0)
        rows = source_of(np.arange(a, b))
        first = int(rows.min())
        gathered: Bytes = tensor.rows(first, int(rows.max()) + 1)[rows - first]
        return gathered

    return replace(tensor, shape=shape, read=read)


@dataclass(frozen=True)
class Regroup(RowOp):
    """Split an axis into parts and reorder them, like numpy's reshape, transpose and reshape back.

    ``Regroup((HEADS, 3, HEAD_DIM), (1, 0, 2))`` reorders the rows of a fused qkv from q, k, v of each head to all q,
    all k, all v.

    Args:
        parts: the sizes of the parts before; one may be -1, for what remains.
        order: the parts' new order.
        axis: any but the last one of a matrix.
    """

    parts: Shape
    order: tuple[int, ...]
    axis: int = 0

    @property
    def inverse(self) -> Regroup:
        back = tuple(int(i) for i in np.argsort(self.order))
        return Regroup(tuple(self.parts[i] for i in self.order), back, self.axis)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        n, inner = tensor.shape[self.axis], prod(tensor.shape[self.axis + 1 : -1])
        parts = _sizes(self.parts, config, n)
        if prod(parts) != n:
            raise _uneven(tensor, n)
        after = tuple(parts[i] for i in self.order)

        def source_of(rows: Rows) -> Rows:
            block, rest = np.divmod(rows, n * inner)
            group, inside = np.divmod(rest, inner)
            indices = np.unravel_index(group, after)
            before = np.ravel_multi_index([indices[self.order.index(i)] for i in range(len(parts))], parts)
            found: Rows = (block * n + before) * inner + inside
            return found

        return (moved_rows(tensor, tensor.shape, source_of),)


@dataclass(frozen=True)
class RegroupColumns(OfParts):
    """``Regroup`` the columns of matrices, for weights whose inputs have another order in llama.cpp."""

    parts: Shape
    order: tuple[int, ...]
    exact = True

    @property
    def inverse(self) -> RegroupColumns:
        back = tuple(int(i) for i in np.argsort(self.order))
        return RegroupColumns(tuple(self.parts[i] for i in self.order), back)

    def sources(self, width: int, config: Config) -> Rows:
        """Which column of the matrix before each column is."""
        parts = _sizes(self.parts, config, width)
        return np.arange(width).reshape(parts).transpose(self.order).reshape(-1)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        return tuple(self._moved(tensor, config) for tensor in tensors)

    def _moved(self, tensor: Tensor, config: Config) -> Tensor:
        columns = self.sources(tensor.width, config)
        item = tensor.qtype.block_bytes  # one weight: as floats, since a block's would part

        def read(a: int, b: int) -> Bytes:
            weights = np.ascontiguousarray(tensor.rows(a, b)).reshape(b - a, -1, item)
            return np.ascontiguousarray(weights[:, columns]).reshape(b - a, -1)

        return replace(tensor, read=read)


@dataclass(frozen=True)
class Ungroup(RowOp):
    """Take apart rows that come in equal groups of unequal parts: the first part of all groups, then the second...

    ``Ungroup(KV_HEADS, (HEADS // KV_HEADS * HEAD_DIM, HEAD_DIM, HEAD_DIM))`` turns a qkv that is fused one key/value
    head after the other into q, k, v, ready for ``Split``.

    Args:
        groups: the number of groups.
        parts: rows of each part in a group.
        undo: go the other way.
    """

    groups: Dim
    parts: Shape
    undo: bool = False

    @property
    def inverse(self) -> Ungroup:
        return replace(self, undo=not self.undo)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        groups, inner = self.groups(config), prod(tensor.shape[1:-1])
        sizes = _sizes(self.parts, config, tensor.shape[0] // max(1, groups))
        if not groups or groups * sum(sizes) != tensor.shape[0]:
            raise _uneven(tensor, tensor.shape[0])
        numbers = np.arange(tensor.shape[0]).reshape(groups, -1)
        parts = np.split(numbers, np.cumsum(sizes)[:-1], axis=1)
        order = np.concatenate([part.reshape(-1) for part in parts])
        order = np.argsort(order) if self.undo else order

        def source_of(rows: Rows) -> Rows:
            found: Rows = order[rows // inner] * inner + rows % inner
            return found

        return (moved_rows(tensor, tensor.shape, source_of),)


def _uneven(tensor: Tensor, n: int) -> FormatError:
    problem = f"its {n} rows do not come in the groups that the config makes of them"
    return FormatError(problem, where=tensor.name, hint="do the numbers of heads fit each other?")


def _sizes(shape: Shape, config: Config, total: int) -> tuple[int, ...]:
    """The numbers of a shape; -1 stands for what remains of ``total``."""
    known = [size(config) if isinstance(size, Dim) else size for size in shape]
    return tuple(total // max(1, -prod(known)) if size == -1 else size for size in known)


@dataclass(frozen=True)
class PermuteRope(RowOp):
    """Rows of each head from HF's rotate-half order to interleaved pairs, as llama.cpp's ``permute`` does.

    A head of 2n rows [0..n) + [n..2n) becomes 0, n, 1, n+1, ...: GGML's rope turns neighbours (2i, 2i+1), HF's turns
    (i, i+n).

    Args:
        heads: how many.
        undo: go the other way.
        turning: how many rows of each head turn, which come first, if not all.
    """

    heads: Dim
    undo: bool = False
    turning: Dim | Rotary | None = None

    @property
    def inverse(self) -> PermuteRope:
        return replace(self, undo=not self.undo)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        if self.turning is not None:
            return self._move_first(tensors, self.turning(config), config)
        pairs = Regroup((self.heads, -1, 2) if self.undo else (self.heads, 2, -1), (0, 2, 1))
        return pairs.move(tensors, config)

    def _move_first(self, tensors: Tensors, turning: int, config: Config) -> Tensors:
        (tensor,) = tensors
        n, heads = tensor.shape[0], self.heads(config)
        each = n // max(1, heads)
        if each * heads != n or turning > each or turning % 2:
            raise _uneven(tensor, n)
        order = np.arange(each)
        order[:turning] = order[:turning].reshape((-1, 2) if self.undo else (2, -1)).T.reshape(-1)

        def source_of(rows: Rows) -> Rows:
            found: Rows = rows - rows % each + order[rows % each]
            return found

        return (moved_rows(tensor, tensor.shape, source_of),)


@dataclass(frozen=True)
class Split(RowOp):
    """Split a tensor into several along an axis, which is not the last one of a matrix."""

    sizes: Shape
    axis: int = 0

    @property
    def inverse(self) -> Concat:
        return Concat(self.sizes, self.axis)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        axis = self.axis
        n, inner = tensor.shape[axis], prod(tensor.shape[axis + 1 : -1])
        sizes = [size(config) if isinstance(size, Dim) else size for size in self.sizes]
        if sum(sizes) != n:
            raise _uneven(tensor, n)

        def part(size: int, start: int) -> Tensor:
            def source_of(rows: Rows) -> Rows:
                block, rest = np.divmod(rows, size * inner)
                found: Rows = (block * n + start) * inner + rest
                return found

            shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
            return moved_rows(tensor, shape, source_of)

        starts = np.cumsum([0, *sizes]).tolist()
        return tuple(part(size, start) for size, start in zip(sizes, starts, strict=False))


@dataclass(frozen=True)
class Concat(RowOp):
    """Join several tensors to one along an axis, which is not the last one of a matrix."""

    sizes: Shape
    axis: int = 0

    @property
    def inverse(self) -> Split:
        return Split(self.sizes, self.axis)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        first, axis = tensors[0], self.axis
        inner = prod(first.shape[axis + 1 : -1])
        lengths = [tensor.shape[axis] * inner for tensor in tensors]  # rows a tensor gives to each block
        each = sum(lengths)
        starts = np.cumsum([0, *lengths]).tolist()

        def read(a: int, b: int) -> Bytes:
            parts = [first.rows(0, 0)]
            for block in range(a // each, -(-b // each)):
                for tensor, start, length in zip(tensors, starts, lengths, strict=False):
                    low = max(a - block * each - start, 0)
                    high = min(b - block * each - start, length)
                    if low < high:
                        parts.append(tensor.rows(block * length + low, block * length + high))
            return np.concatenate(parts)

        shape = (*first.shape[:axis], sum(tensor.shape[axis] for tensor in tensors), *first.shape[axis + 1 :])
        return (replace(first, shape=shape, read=read),)


@dataclass(frozen=True)
class DropRows(OfParts):
    """Leave out the first rows of a matrix, such as the positions that padding stands at."""

    count: Dim
    exact = False

    @property
    def inverse(self) -> AddRows:
        return AddRows(self.count)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        count = self.count(config)
        if count >= tensor.shape[0]:
            problem = f"nothing is left of {tensor.shape[0]} rows without the first {count}"
            raise FormatError(problem, where=tensor.name, hint="is config.json of the same model?")
        return (replace(_slice(tensor, count), shape=(tensor.shape[0] - count, *tensor.shape[1:])),)


@dataclass(frozen=True)
class AddRows(OfParts):
    """Put rows of zeros before a matrix: what ``DropRows`` has left out, as far as can be known."""

    count: Dim
    exact = True

    @property
    def inverse(self) -> DropRows:
        return DropRows(self.count)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        count = self.count(config)

        def read(a: int, b: int) -> Bytes:
            zeros = np.zeros((max(0, min(b, count) - a), tensor.row_bytes), np.uint8)
            return np.concatenate([zeros, tensor.rows(max(a - count, 0), max(b - count, 0))])

        return (replace(tensor, shape=(tensor.shape[0] + count, *tensor.shape[1:]), read=read),)


@dataclass(frozen=True)
class Stack(OfParts):
    """Stack tensors of the same shape, one for each expert, along a new first axis."""

    exact = True

    @property
    def inverse(self) -> Unstack:
        return Unstack()

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        first = tensors[0]
        each = first.n_rows

        def read(a: int, b: int) -> Bytes:
            parts = []
            for i in range(a // each, -(-b // each)):
                parts.append(tensors[i].rows(max(a - i * each, 0), min(b - i * each, each)))
            return np.concatenate(parts) if parts else first.rows(0, 0)

        return (replace(first, shape=(len(tensors), *first.shape), read=read),)


@dataclass(frozen=True)
class Unstack(OfParts):
    """Split a stacked tensor into its experts."""

    exact = True

    @property
    def inverse(self) -> Stack:
        return Stack()

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        each = tensor.n_rows // tensor.shape[0]
        return tuple(_slice(tensor, i * each) for i in range(tensor.shape[0]))


def _slice(tensor: Tensor, start: int) -> Tensor:
    return replace(tensor, shape=tensor.shape[1:], read=lambda a, b: tensor.rows(start + a, start + b))


@dataclass(frozen=True)
class Transpose(OfParts):
    """Swap the last two axes, of weights stored [in, out] as in GPT-2's Conv1D. Vectors stay as they are."""

    exact = True

    @property
    def inverse(self) -> Transpose:
        return self

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        return tuple(_transposed(tensor) if len(tensor.shape) > 1 else tensor for tensor in tensors)


def _transposed(tensor: Tensor) -> Tensor:
    height, width = tensor.shape[-2:]
    shape = (*tensor.shape[:-2], width, height)
    item = tensor.qtype.block_bytes  # one weight: blocks of several are never transposed

    def read(a: int, b: int) -> Bytes:
        parts = [np.empty((0, height * item), np.uint8)]
        for i in range(a // width, -(-b // width)):
            matrix = tensor.rows(i * height, (i + 1) * height).reshape(height, width, item)
            columns = matrix[:, max(a - i * width, 0) : b - i * width]
            parts.append(np.ascontiguousarray(columns.swapaxes(0, 1)).reshape(-1, height * item))
        return np.concatenate(parts)

    return replace(tensor, shape=shape, read=read)


@dataclass(frozen=True)
class Reshape(OfParts):
    """Give a tensor another shape.

    Args:
        before, after: the whole shapes; the inverse needs both.
    """

    before: Shape
    after: Shape
    exact = True

    @property
    def inverse(self) -> Reshape:
        return Reshape(self.after, self.before)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        out = replace(tensor, shape=_sizes(self.after, config, tensor.n_weights))
        if out.n_weights != tensor.n_weights:
            raise _uneven(tensor, tensor.n_rows)

        def read(a: int, b: int) -> Bytes:
            first, last = a * out.row_bytes, b * out.row_bytes
            start = first // tensor.row_bytes
            flat = np.ascontiguousarray(tensor.rows(start, -(-last // tensor.row_bytes))).reshape(-1)
            skipped = start * tensor.row_bytes
            return flat[first - skipped : last - skipped].reshape(b - a, out.row_bytes)

        return (replace(out, read=read),)


@dataclass(frozen=True)
class On(OfParts):
    """Apply an op to some of the tensors, one at a time: ``On((0,), Transpose())``. The others stay as they are."""

    which: tuple[int, ...]
    op: Op

    @property
    def exact(self) -> bool:
        return self.op.exact

    @property
    def inverse(self) -> On:
        return On(self.which, self.op.inverse)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        return tuple(
            self.op.apply((tensor,), config)[0] if i in self.which else tensor for i, tensor in enumerate(tensors)
        )
