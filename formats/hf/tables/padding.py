"""Rows of zeros behind a matrix, for tokens that have none of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...errors import FormatError
from ...ir import Bytes
from .dimensions import Config, Dim
from .ops import Tensors
from .reads import OfParts


@dataclass(frozen=True)
class PadRows(OfParts):
    """Put rows of zeros behind a matrix.

    Args:
        rows, padded: how many rows it has without them, and with them.
    """

    rows: Dim
    padded: Dim
    exact = True

    @property
    def inverse(self) -> CutRows:
        return CutRows(self.rows, self.padded)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        count, padded = self.rows(config), self.padded(config)
        if padded < count:
            raise FormatError(f"{count} rows are more than {padded}", where=tensor.name)

        def read(a: int, b: int) -> Bytes:
            zeros = np.zeros((max(0, b - max(a, count)), tensor.row_bytes), np.uint8)
            return np.concatenate([tensor.rows(min(a, count), min(b, count)), zeros])

        return (replace(tensor, shape=(padded, *tensor.shape[1:]), read=read),)


@dataclass(frozen=True)
class CutRows(OfParts):
    """Leave out the last rows of a matrix, which ``PadRows`` has put there."""

    rows: Dim
    padded: Dim
    exact = False

    @property
    def inverse(self) -> PadRows:
        return PadRows(self.rows, self.padded)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        return (replace(tensor, shape=(self.rows(config), *tensor.shape[1:])),)
