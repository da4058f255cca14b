"""Sums of squared inputs per column of a matrix, the content of an importance matrix, and how several are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
class RecordedWeight:
    """Where a weight's inputs are counted.

    Args:
        names: its tensors in GGUF (two where a module fuses two of them).
        n_matrices: experts in the stack; 1 for a plain matrix.
    """

    names: tuple[str, ...]
    n_matrices: int = 1


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
