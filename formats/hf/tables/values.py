"""Operations that compute. Their results are F32; the way back is rounded to the checkpoint's type.

Rounding loses bits: 1 + w drops the low bits of a small w. If the way back does not restore a value exactly,
``load.py`` records the original.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...floats import to_f32
from ...ir import Bytes, Tensor
from ...qtypes import F32
from .dimensions import Config, Dim, Number, Root
from .ops import Tensors
from .reads import OfParts

Floats = NDArray[np.float32]


class ValueOp(OfParts, ABC):
    """The base of ops that compute each value from one value."""

    exact = False

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        return tuple(self._computed(tensor, config) for tensor in tensors)

    def _computed(self, tensor: Tensor, config: Config) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                values = self.compute(to_f32(tensor.rows(a, b), tensor.qtype), config)
            return np.ascontiguousarray(values.astype("<f4")).view(np.uint8).reshape(b - a, 4 * tensor.width)

        return replace(tensor, qtype=F32, read=read)

    @abstractmethod
    def compute(self, values: Floats, config: Config) -> Floats: ...


@dataclass(frozen=True)
class Add(ValueOp):
    """Add a number: Gemma's norms multiply by 1 + weight."""

    number: float

    @property
    def inverse(self) -> Add:
        return Add(-self.number)

    def compute(self, values: Floats, config: Config) -> Floats:
        return values + np.float32(self.number)


@dataclass(frozen=True)
class Multiply(ValueOp):
    """Multiply by a number, or by one that follows from config keys.

    Args:
        by: the number.
        undo: divide instead.
    """

    by: float | Dim | Number | Root
    undo: bool = False

    @property
    def inverse(self) -> Multiply:
        return replace(self, undo=not self.undo)

    def compute(self, values: Floats, config: Config) -> Floats:
        number = np.float32(self.by(config) if callable(self.by) else self.by)
        return values / number if self.undo else values * number


@dataclass(frozen=True)
class NegExp(ValueOp):
    """Compute -exp(x): Mamba stores its decay rates as logarithms."""

    @property
    def inverse(self) -> LogNeg:
        return LogNeg()

    def compute(self, values: Floats, config: Config) -> Floats:
        # float64, then rounded: the same result on every platform, and torch's within an ulp.
        result: NDArray[Any] = -np.exp(values.astype(np.float64))
        return result.astype(np.float32)


@dataclass(frozen=True)
class LogNeg(ValueOp):
    """Compute log(-x), the inverse of ``NegExp``."""

    @property
    def inverse(self) -> NegExp:
        return NegExp()

    def compute(self, values: Floats, config: Config) -> Floats:
        result: NDArray[Any] = np.log(-values.astype(np.float64))
        return result.astype(np.float32)


@dataclass(frozen=True)
class Softplus(ValueOp):
    """Compute log(1 + exp(x)), which llama.cpp has in its files where transformers computes it as it runs."""

    @property
    def inverse(self) -> SoftplusInverse:
        return SoftplusInverse()

    def compute(self, values: Floats, config: Config) -> Floats:
        result: NDArray[Any] = np.logaddexp(values.astype(np.float64), 0.0)
        return result.astype(np.float32)


@dataclass(frozen=True)
class SoftplusInverse(ValueOp):
    """Compute log(exp(x) - 1), the inverse of ``Softplus``."""

    @property
    def inverse(self) -> Softplus:
        return Softplus()

    def compute(self, values: Floats, config: Config) -> Floats:
        wide = values.astype(np.float64)
        result: NDArray[Any] = wide + np.log(-np.expm1(-wide))
        return result.astype(np.float32)
