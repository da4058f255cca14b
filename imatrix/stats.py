"""Statistics of an importance matrix, by llama.cpp's definitions (tools/imatrix/imatrix.cpp)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .sums import Sums

_BLOCK = re.compile(r"blk\.(\d+)\.")
_ACTIVE = 1e-5  # a mean square above it makes a column active


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of the mean squared inputs a_j of one tensor's columns, of all its experts that saw any input.

    Args:
        layer: the block's number, or None outside the blocks.
        tensor: the base name, such as ``attn_q``.
        total, smallest, largest, mean, deviation: of the a_j.
        active: the share of columns with a_j > 1e-5.
        n: how many columns there are.
        entropy: of the distribution a_j / total, in bits.
        high: the share of columns more than one deviation above the mean (llama.cpp's "ZD score").
        similarity: the cosine of the sums and those of the same tensor in the previous block; 0 in the first.
    """

    layer: int | None
    tensor: str
    total: float
    smallest: float
    largest: float
    mean: float
    deviation: float
    active: float
    n: int
    entropy: float
    high: float
    similarity: float


def statistics(sums: Mapping[str, Sums]) -> list[TensorStatistics]:
    """Compute the statistics of each tensor with data, ordered by base name and falling total.

    Example:
        >>> [row] = statistics({"blk.0.attn_q.weight": Sums(np.array([[8.0, 2.0]]), np.array([2]))})
        >>> row.tensor, row.total, row.mean
        ('attn_q', 5.0, 2.5)
    """
    rows = [_row(name, entry, sums) for name, entry in sums.items() if entry.counts.any()]
    return sorted(rows, key=lambda row: (row.tensor, -row.total))


def _row(name: str, entry: Sums, sums: Mapping[str, Sums]) -> TensorStatistics:
    if len(entry.counts) == 1:
        means = entry.values[0] / entry.counts[0]
    else:
        seen = entry.counts > 0
        means = (entry.values[seen] / entry.counts[seen, None]).reshape(-1)
    total = float(means.sum())
    deviation = float(np.sqrt(max(0.0, float((means**2).mean() - means.mean() ** 2))))
    share = means[means > 0] / total if total > 0 else means[:0]
    match = _BLOCK.search(name)
    parts = name.split(".")
    return TensorStatistics(
        layer=int(match[1]) if match else None,
        tensor=parts[parts.index("weight") - 1] if "weight" in parts[1:] else name,
        total=total,
        smallest=float(means.min()),
        largest=float(means.max()),
        mean=float(means.mean()),
        deviation=deviation,
        active=float((np.abs(means) > _ACTIVE).mean()),
        n=means.size,
        entropy=float(-(share * np.log2(share)).sum()),
        high=float(((means - means.mean()) > deviation).mean()) if deviation > 0 else 0.0,
        similarity=_similarity(name, entry, sums, match),
    )


def _similarity(name: str, entry: Sums, sums: Mapping[str, Sums], match: re.Match[str] | None) -> float:
    if match is None:
        return 0.0
    before = sums.get(f"{name[: match.start(1)]}{int(match[1]) - 1}{name[match.end(1) :]}")
    if before is None or before.values.size != entry.values.size:
        return 0.0
    a, b = entry.values.reshape(-1), before.values.reshape(-1)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0


def by_layer(rows: list[TensorStatistics]) -> dict[int, tuple[float, float, float]]:
    """Average each block's total, share of high columns and similarity over its tensors, weighted by their columns."""
    found: dict[int, tuple[float, float, float]] = {}
    for layer in sorted({row.layer for row in rows if row.layer is not None}):
        mine = [row for row in rows if row.layer == layer]
        n = sum(row.n for row in mine)
        total, high, similarity = (
            sum(row.n * getattr(row, what) for row in mine) / n for what in ("total", "high", "similarity")
        )
        found[layer] = (total, high, similarity)
    return found
