"""Sums of squared inputs per column of every matrix: llama.cpp's importance, gathered while a model runs.

Definition (tools/imatrix/imatrix.cpp of llama.cpp): for a matrix with inputs x_t, ``sums[j] = sum_t x_t[j]**2`` and
``count`` = the number of inputs; for stacked experts both per expert, over the inputs routed to it. float64 throughout;
llama.cpp adds in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from .second_moments import MomentSums


@dataclass
class Sums:
    """One matrix, or a stack of them.

    Args:
        values: float64 [n_matrices, width], sums of squares.
        counts: int64 [n_matrices], inputs seen.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_matrices: int, width: int) -> Sums:
        return cls(np.zeros((n_matrices, width)), np.zeros(n_matrices, np.int64))

    def add(self, other: Sums) -> None:
        self.values += other.values
        self.counts += other.counts


@dataclass(frozen=True)
class Target:
    """Where a weight's inputs are counted.

    Args:
        names: its tensors in GGUF (two where a module fuses two of them).
        n_matrices: experts in the stack; 1 for a plain matrix.
    """

    names: tuple[str, ...]
    n_matrices: int = 1


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

    def see(self, target: Target, expert: int, x: torch.Tensor) -> None:
        """Inputs on their way into a weight.

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


def thin_experts(sums: dict[str, Sums], min_tokens: int) -> dict[str, list[tuple[int, int]]]:
    """Experts that saw fewer inputs than ``min_tokens``: tensor name -> (expert, count) pairs."""
    found = {}
    for name, entry in sums.items():
        if len(entry.counts) > 1:
            thin = [(int(i), int(entry.counts[i])) for i in np.flatnonzero(entry.counts < min_tokens)]
            if thin:
                found[name] = thin
    return found


def with_expert_prior(entry: Sums, min_tokens: int) -> Sums:
    """Experts that saw c < ``min_tokens`` inputs get the missing ones from the layer: their mean becomes
    (own sum + (min_tokens - c) * the layer's mean) / min_tokens. Counts stay, but an unseen expert's becomes 1."""
    total = int(entry.counts.sum())
    if len(entry.counts) < 2 or not total:
        return entry
    layer_mean = entry.values.sum(0) / total
    missing = np.maximum(min_tokens - entry.counts, 0)[:, None]
    counts = np.maximum(entry.counts, 1)
    blended = (entry.values + missing * layer_mean) / np.maximum(entry.counts[:, None] + missing, 1) * counts[:, None]
    return Sums(np.where(missing > 0, blended, entry.values), counts)


def merged(parts: Sequence[dict[str, Sums]]) -> dict[str, Sums]:
    """The sums of several runs, as if they were one."""
    result: dict[str, Sums] = {}
    for part in parts:
        for name, entry in part.items():
            if name in result:
                mine = result[name]
                if len(mine.counts) != len(entry.counts):  # a .dat file holds one count for all experts
                    mine = result[name] = _spread(mine, max(len(mine.counts), len(entry.counts)))
                    entry = _spread(entry, len(mine.counts))
                mine.add(entry)
            else:
                result[name] = Sums(entry.values.copy(), entry.counts.copy())
    return result


def _spread(entry: Sums, n: int) -> Sums:
    if len(entry.counts) == n:
        return entry
    assert len(entry.counts) == 1, (len(entry.counts), n)
    return Sums(entry.values.reshape(n, -1).copy(), np.repeat(entry.counts, n))
