"""Sums of squared inputs per column of a matrix, the content of an importance matrix, and how several are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..formats.hf.tables.rules import Slot


@dataclass
class Sums:
    """The sums of squared inputs of a matrix, or of a stack of experts' matrices.

    Args:
        values: float64 [n_matrices, width], sums of squares.
        counts: int64 [n_matrices], how many inputs were added.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_matrices: int, width: int) -> Sums:
        """Sums to which nothing was added."""
        return cls(np.zeros((n_matrices, width)), np.zeros(n_matrices, np.int64))

    def add(self, other: Sums) -> None:
        """Add the sums of other inputs of the same matrices."""
        self.values += other.values
        self.counts += other.counts


@dataclass(frozen=True)
class RecordedWeight:
    """A weight of a running model whose inputs are recorded.

    Args:
        names: the GGUF tensors it consists of (two where a module fuses two of them).
        n_matrices: experts in the stack; 1 for a plain matrix.
        columns: which of the module's inputs each column of the tensors multiplies; None where the order is the same.
        heads: of the weight that makes keys and values of a latent vector (MLA), the number of heads, and the width
            of a query's part that does not turn. In GGUF the keys' part multiplies the queries, and the values' part
            what the attention makes of the latent vectors, each with a matrix for each head.
        turned: the slot of a parameter that transformers keeps as [in, out], as the checkpoint does; else None.
    """

    names: tuple[str, ...]
    n_matrices: int = 1
    columns: NDArray[np.intp] | None = field(default=None, compare=False)
    heads: tuple[int, int] | None = field(default=None, compare=False)
    turned: Slot | None = field(default=None, compare=False)


def thin_experts(sums: dict[str, Sums], min_tokens: int) -> dict[str, list[tuple[int, int]]]:
    """Find the experts that saw fewer inputs than ``min_tokens``: tensor name -> (expert, count) pairs."""
    found = {}
    for name, entry in sums.items():
        if len(entry.counts) > 1:
            thin = [(int(i), int(entry.counts[i])) for i in np.flatnonzero(entry.counts < min_tokens)]
            if thin:
                found[name] = thin
    return found


def with_expert_prior(entry: Sums, min_tokens: int) -> Sums:
    """Fill up the sums of experts that saw fewer than ``min_tokens`` inputs with the mean of their layer.

    The mean of an expert that saw c < ``min_tokens`` inputs becomes (own sum + (min_tokens - c) * the layer's mean) /
    min_tokens. Counts stay, except that an unseen expert's becomes 1.

    Example:
        >>> entry = Sums(np.array([[8.0, 16.0], [0.0, 0.0]]), np.array([4, 0]))
        >>> with_expert_prior(entry, 2)
        Sums(values=array([[ 8., 16.],
               [ 2.,  4.]]), counts=array([4, 1]))
    """
    total = int(entry.counts.sum())
    if len(entry.counts) < 2 or not total:
        return entry
    layer_mean = entry.values.sum(0) / total
    missing = np.maximum(min_tokens - entry.counts, 0)[:, None]
    counts = np.maximum(entry.counts, 1)
    blended = (entry.values + missing * layer_mean) / np.maximum(entry.counts[:, None] + missing, 1) * counts[:, None]
    return Sums(np.where(missing > 0, blended, entry.values), counts)


def merged_sums(parts: Sequence[dict[str, Sums]]) -> dict[str, Sums]:
    """Add the sums of several runs, by tensor name, as if they were one run."""
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
