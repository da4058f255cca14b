"""Operations that towers need beside those of text models."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...arrays import tensor_from_array
from ...errors import FormatError
from ...floats import to_f32
from ...ir import Bytes
from .dimensions import Config, Dim
from .ops import Op, RowOp, Tensors, moved_rows
from .reads import OfParts


@dataclass(frozen=True)
class Roll(RowOp):
    """Move rows up, the first ones to the end: the embedding of CLIP's class token, which llama.cpp has last.

    Args:
        by: how many.
        undo: go the other way.
    """

    by: int
    undo: bool = False

    @property
    def inverse(self) -> Roll:
        return replace(self, undo=not self.undo)

    def move(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        by = -self.by if self.undo else self.by
        return (moved_rows(tensor, tensor.shape, lambda rows: (rows + by) % tensor.n_rows),)


@dataclass(frozen=True)
class TakeRow(OfParts):
    """One row of a matrix, as a vector: for rules that borrow.

    Args:
        row: its number.
    """

    row: Dim
    exact = True

    @property
    def inverse(self) -> Op:
        raise TypeError("a row does not give the matrix back")

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        row = self.row(config)
        if row >= tensor.n_rows:
            raise FormatError(f"has {tensor.n_rows} rows, and no row {row}", where=tensor.name)
        return (replace(tensor, shape=tensor.shape[1:], read=lambda a, b: tensor.rows(row + a, row + b)),)


@dataclass(frozen=True)
class BeforeWaves(OfParts):
    """Put positions of sines and cosines, which Whisper's kin compute, before the other tensors.

    Args:
        positions: how many.
        width: of each: half of it are sines.
    """

    positions: int
    width: Dim
    exact = True

    @property
    def inverse(self) -> WithoutWaves:
        return WithoutWaves(self.positions, self.width)

    def table(self, config: Config) -> NDArray[np.float32]:
        """The positions: float32 [positions, width]."""
        half = self.width(config) // 2
        steps = np.exp(np.arange(half) * -(np.log(10000) / max(half - 1, 1))).astype(np.float32)
        angles = np.arange(self.positions, dtype=np.float32)[:, None] * steps
        wide = angles.astype(np.float64)  # rounded once: the same on every platform
        return np.concatenate([np.sin(wide), np.cos(wide)], axis=1).astype(np.float32)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        return (replace(tensor_from_array("", self.table(config)), source=tensors[0].source), *tensors)


@dataclass(frozen=True)
class WithoutWaves(OfParts):
    """Undo ``BeforeWaves``; the table is read with the tensor behind it, and must hold these waves."""

    positions: int
    width: Dim
    exact = True

    @property
    def inverse(self) -> BeforeWaves:
        return BeforeWaves(self.positions, self.width)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        table, first, *rest = tensors

        def read(a: int, b: int) -> Bytes:
            found = to_f32(table.rows(0, table.n_rows), table.qtype)
            expected = self.inverse.table(config)
            if found.shape != expected.shape or np.abs(found - expected).max() > 1e-2:
                raise FormatError("holds other positions than the model computes", where=table.name)
            return first.rows(a, b)

        return (replace(first, read=read), *rest)
