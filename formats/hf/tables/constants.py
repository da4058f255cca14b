"""Tensors that llama.cpp reads and no checkpoint holds: each has one value, which the config gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...arrays import tensor_from_array
from ...errors import FormatError
from ...floats import to_f32
from ...ir import Bytes, Tensor
from ...json_types import NUMBER
from .dimensions import Config, Dim
from .ops import Tensors
from .reads import OfParts, Reads


@dataclass(frozen=True)
class Filled:
    """A vector of one value.

    Args:
        value: the value, or the config key that has it.
        size: its length.
    """

    value: float | str
    size: Dim

    def reads(self) -> Reads:
        return {self.value: NUMBER} if isinstance(self.value, str) else {}

    def of(self, config: Config) -> float:
        """The value."""
        return float(config[self.value] if isinstance(self.value, str) else self.value)


@dataclass(frozen=True)
class Before(OfParts):
    """Put vectors of one value each before the other tensors."""

    vectors: tuple[Filled, ...]
    exact = True

    @property
    def inverse(self) -> Without:
        return Without(self.vectors)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        made = (np.full(one.size(config), one.of(config), np.float32) for one in self.vectors)
        source = tensors[0].source
        return (*(replace(tensor_from_array("", values), source=source) for values in made), *tensors)


@dataclass(frozen=True)
class Without(OfParts):
    """Undo ``Before``; the vectors are read with the tensor behind them, and must have the values of the config."""

    vectors: tuple[Filled, ...]
    exact = True

    @property
    def inverse(self) -> Before:
        return Before(self.vectors)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        n = len(self.vectors)
        made, first, rest = tensors[:n], tensors[n], tensors[n + 1 :]

        def read(a: int, b: int) -> Bytes:
            for tensor, vector in zip(made, self.vectors, strict=True):
                _check(tensor, vector, vector.of(config))
            return first.rows(a, b)

        return (replace(first, read=read), *rest)


def _check(tensor: Tensor, vector: Filled, value: float) -> None:
    found = to_f32(tensor.rows(0, 1), tensor.qtype)
    if (found != np.float32(value)).any():
        key = f"{vector.value} " if isinstance(vector.value, str) else ""
        raise FormatError(f"is not {key}{value:g} in each place, as config.json says", where=tensor.name)
