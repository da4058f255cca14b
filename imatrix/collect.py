"""Sums of squared inputs per column of every matrix: llama.cpp's importance, gathered while a model runs.

Definition (tools/imatrix/imatrix.cpp of llama.cpp): for a matrix with inputs x_t, ``sums[j] = sum_t x_t[j]**2`` and
``count`` = the number of inputs; for stacked experts both per expert, over the inputs routed to it. float64 throughout;
llama.cpp adds in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .second_moments import MomentSums
from .sums import RecordedWeight, Sums

if TYPE_CHECKING:
    import torch


class NonFinite(Exception):
    """An input with NaN or Inf; ``name`` is the tensor it was to be multiplied with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass
class Collector:
    """Sums by GGUF tensor name. A batch counts when it is committed, so a batch that failed leaves no trace.

    Args:
        moments: second moments are gathered too, here.
    """

    sums: dict[str, Sums] = field(default_factory=dict)
    moments: MomentSums | None = None
    _batch: dict[str, Sums] = field(default_factory=dict)
    _last: tuple[Any, NDArray[np.float64]] | None = None

    def see(self, target: RecordedWeight, expert: int, x: torch.Tensor) -> None:
        """BlockInputs on their way into a weight.

        Args:
            target: the weight.
            expert: which of its matrices.
            x: [..., width], any float type. q, k and v are given the same tensor one after the other, and so are gate
                and up: it is squared once.

        Raises:
            NonFinite: a value is NaN or Inf.
        """
        if self._last is None or self._last[0] is not x:
            self._last = (x, sums_of_squares(x))
        values = self._last[1]
        if not np.isfinite(values).all():
            raise NonFinite(target.names[0])
        rows = x.numel() // x.shape[-1]
        for name in target.names:
            entry = self._batch.get(name)
            if entry is None:
                entry = self._batch[name] = Sums.zeros(target.n_matrices, x.shape[-1])
            entry.values[expert] += values
            entry.counts[expert] += rows
        if self.moments is not None:
            self.moments.see(target, expert, x)

    def commit(self) -> None:
        if self.moments is not None:
            self.moments.commit()
        for name, entry in self._batch.items():
            if name in self.sums:
                self.sums[name].add(entry)
            else:
                self.sums[name] = entry
        self.discard()

    def discard(self) -> None:
        self._batch, self._last = {}, None
        if self.moments is not None:
            self.moments.discard()


_ROWS = 512  # squares stay in the cache, float32 sums of so many keep six digits, the rest is added in float64


def sums_of_squares(x: torch.Tensor) -> NDArray[np.float64]:
    """float64 [width]: the sum over all rows of each column's squares."""
    import torch

    flat = x.detach().reshape(-1, x.shape[-1])
    total = torch.zeros(x.shape[-1], dtype=torch.float64)
    squares = torch.empty(min(_ROWS, len(flat)), x.shape[-1], device=x.device)
    for start in range(0, len(flat), _ROWS):
        rows = flat[start : start + _ROWS].float()
        part = torch.mul(rows, rows, out=squares[: len(rows)])
        total += part.sum(0).cpu()
    values: NDArray[np.float64] = total.numpy()
    return values
