"""Operations that towers need beside those of text models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import FormatError
from .dimensions import Config, Dim
from .ops import Op, RowOp, Tensors, moved_rows


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
class TakeRow:
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
