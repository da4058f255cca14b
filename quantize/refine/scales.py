"""Read and write the scales, or the mins, of a block's sub-blocks.

Most types keep them as ``unit * (n + shift)``, n a small integer and the unit a half that the block's sub-blocks share;
the types of one sub-block have a half alone, those of 4-bit floats a byte that is a float. Blocks are uint8 [rows,
bytes of a block].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ..kernels.contract import F32_ARRAY

Ints = NDArray[np.int32]
HALF_MANTISSA = 10


def half(blocks: Bytes, at: int) -> F32_ARRAY:
    """Return the IEEE half at a byte of each block as float32 [rows, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


class Scales(Protocol):
    """The scales, or the mins, of the sub-blocks: ``Integers`` times a unit, ``Halves``, or ``Bytewise`` floats.

    Attributes:
        low, high: the least and the largest integer; both 0 where the values are floats.
        shift: what is added to the integer; 0 for floats.
        mantissa: bits after the leading one of a float; 0 for integers.
        largest: the largest float; 0 for integers.
    """

    @property
    def low(self) -> int: ...

    @property
    def high(self) -> int: ...

    @property
    def shift(self) -> float: ...

    @property
    def mantissa(self) -> int: ...

    @property
    def largest(self) -> float: ...

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        """Return values and units, float32 [rows, sub-blocks]; of floats, the unit of the subnormal ones."""
        ...

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        """Write values that the type can store into blocks that were ``read``."""
        ...


@dataclass(frozen=True)
class Integers:
    """Scales that are stored as integers, multiples of a unit.

    Args:
        low, high, shift: see ``Scales``.
        unit: reads the unit float32 [rows, 1] of the blocks.
        get: reads the integers int32 [rows, sub-blocks] of the blocks.
        put: writes the integers into the blocks.
    """

    low: int
    high: int
    unit: Callable[[Bytes], F32_ARRAY]
    get: Callable[[Bytes], Ints]
    put: Callable[[Ints, Bytes], None]
    shift: float = 0.0
    mantissa: int = 0
    largest: float = 0.0

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        unit, n = self.unit(blocks), self.get(blocks)
        return unit * (n.astype(np.float32) + np.float32(self.shift)), np.broadcast_to(unit, n.shape)

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        unit = self.unit(blocks)
        empty = unit == 0
        n = np.rint(values / np.where(empty, np.float32(1), unit) - np.float32(self.shift)).astype(np.int32)
        self.put(np.where(empty, self.get(blocks), n) if empty.any() else n, blocks)


@dataclass(frozen=True)
class Halves:
    """A scale that is stored as the half at byte ``at``: a block is one sub-block."""

    at: int
    low: int = 0
    high: int = 0
    shift: float = 0.0
    mantissa: int = HALF_MANTISSA
    largest: float = 65504.0

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        values = half(blocks, self.at)
        return values, np.zeros_like(values)

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        blocks[:, self.at : self.at + 2] = np.ascontiguousarray(values.astype("<f2")).view(np.uint8)


@dataclass(frozen=True)
class Bytewise:
    """Scales that are floats of a byte each, from the block's first byte on, one for each sub-block.

    Args:
        table: float32 [n], the values of codes from 0 on, ascending.
        n: sub-blocks in a block.
        mantissa, largest: see ``Scales``.
        unit: the least value above zero, of which the subnormal ones are multiples; 0 where there are none.
    """

    table: F32_ARRAY
    n: int
    mantissa: int
    largest: float
    unit: float
    low: int = 0
    high: int = 0
    shift: float = 0.0

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        values: F32_ARRAY = self.table[np.minimum(blocks[:, : self.n], len(self.table) - 1)]
        return values, np.full_like(values, self.unit)

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        blocks[:, : self.n] = np.searchsorted(self.table, values)
