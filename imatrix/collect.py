"""Collect importance while a model runs: for every matrix, the sums of its squared inputs by column.

The definition is llama.cpp's (tools/imatrix/imatrix.cpp): for a matrix with inputs x_t, ``sums[j] = sum_t x_t[j]**2``
and ``count`` is the number of inputs; for stacked experts both are kept by expert, over the inputs routed to it. Sums
are float64; llama.cpp's are float32.
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
    """An activation is NaN or Inf; ``name`` is the tensor it was to be multiplied with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass
class Collector:
    """Sums by GGUF tensor name. A batch counts when it is committed, so a batch that failed leaves no trace.

    Args:
        sums: what is collected already.
        moments: collects second moments too, if given.

    Example:
        >>> import torch
        >>> collector = Collector()
        >>> collector.see(RecordedWeight(("blk.0.attn_q.weight",)), 0, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> collector.commit()
        >>> collector.sums["blk.0.attn_q.weight"]
        Sums(values=array([[10.,  4.]]), counts=array([2]))
    """

    sums: dict[str, Sums] = field(default_factory=dict)
    moments: MomentSums | None = None
    _batch: dict[str, Sums] = field(default_factory=dict)
    _last: tuple[Any, NDArray[np.float64]] | None = None

    def see(self, weight: RecordedWeight, expert: int, x: torch.Tensor) -> None:
        """Add inputs of a weight to the batch.

        Args:
            weight: what they are multiplied with.
            expert: which of its matrices; 0 for a plain matrix.
            x: [..., width], any float type. A tensor that was given in the call before is not squared again: q, k and
                v have the same input, and so have gate and up.

        Raises:
            NonFinite: a value is NaN or Inf.
        """
        if self._last is None or self._last[0] is not x:
            self._last = (x, sums_of_squares(x))
        values = self._last[1]
        if not np.isfinite(values).all():
            raise NonFinite(weight.names[0])
        rows = x.numel() // x.shape[-1]
        for name in weight.names:
            entry = self._batch.get(name)
            if entry is None:
                entry = self._batch[name] = Sums.zeros(weight.n_matrices, x.shape[-1])
            entry.values[expert] += values
            entry.counts[expert] += rows
        if self.moments is not None:
            self.moments.see(weight, expert, x)

    def commit(self) -> None:
        """Add the batch to the sums."""
        if self.moments is not None:
            self.moments.commit()
        for name, entry in self._batch.items():
            if name in self.sums:
                self.sums[name].add(entry)
            else:
                self.sums[name] = entry
        self.discard()

    def discard(self) -> None:
        """Forget the batch."""
        self._batch, self._last = {}, None
        if self.moments is not None:
            self.moments.discard()


_PIECE = 1 << 18  # numbers squared at a time: their squares, 1 MiB, stay in the cache
_ROWS = 512  # whose float32 sums keep six digits; the sums are added in float64


def sums_of_squares(x: torch.Tensor) -> NDArray[np.float64]:
    """The sum of each column's squares over all rows of x [..., width], as float64 [width]."""
    import torch

    flat = x.detach().reshape(-1, x.shape[-1])
    total = torch.zeros(x.shape[-1], dtype=torch.float64)
    rows = max(1, min(_ROWS, _PIECE // x.shape[-1], len(flat))) if x.device.type == "cpu" else _ROWS
    squares = torch.empty(rows, x.shape[-1], device=x.device)
    for part in torch.split(flat, _ROWS):
        sums = torch.zeros(x.shape[-1], device=x.device)
        for piece in torch.split(part, rows):
            into = squares[: len(piece)]
            if x.dtype == torch.float32:
                torch.mul(piece, piece, out=into)
            else:
                into.copy_(piece).square_()
            sums += into.sum(0)
        total += sums.cpu()
    return total.numpy()  # type: ignore[no-any-return]
