"""What stands before the codes of a block: the scales, or the mins, of its sub-blocks.

Most types keep them as ``unit * (n + shift)``, n a small integer and the unit a half that the block's sub-blocks share;
the types of one sub-block have a half alone. Blocks are uint8 [rows, bytes of a block].
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


def half(blocks: Bytes, at: int) -> F32_ARRAY:
    """float32 [rows, 1] of the IEEE half at a byte."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


class Scales(Protocol):
    """Either kind.

    Attributes:
        low, high, shift: what integers there are, and what is added to them; of halves nothing.
    """

    @property
    def low(self) -> int: ...

    @property
    def high(self) -> int: ...

    @property
    def shift(self) -> float: ...

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        """Values and units, float32 [rows, sub-blocks]; the unit of halves is 0."""
        ...

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        """Values that the type has, into blocks that were ``read``."""
        ...


@dataclass(frozen=True)
class Integers:
    """Multiples of a unit.

    Args:
        low, high, shift: see ``Scales``.
        unit: blocks -> float32 [rows, 1].
        get: blocks -> n, int [rows, sub-blocks].
        put: n into blocks.
    """

    low: int
    high: int
    unit: Callable[[Bytes], F32_ARRAY]
    get: Callable[[Bytes], Ints]
    put: Callable[[Ints, Bytes], None]
    shift: float = 0.0

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
    """The half at byte ``at``: a block is one sub-block."""

    at: int
    low: int = 0
    high: int = 0
    shift: float = 0.0

    def read(self, blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
        values = half(blocks, self.at)
        return values, np.zeros_like(values)

    def write(self, values: F32_ARRAY, blocks: Bytes) -> None:
        blocks[:, self.at : self.at + 2] = np.ascontiguousarray(values.astype("<f2")).view(np.uint8)
