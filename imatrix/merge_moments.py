"""Merge the second moments of several runs, and fill up those of experts that saw few tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import PlanError, QuantmillError
from ..formats.imatrix_file import Imatrix
from ..formats.moments_file import Moments, Packed
from .sums import Sums


def check_all_have(files: Iterable[Imatrix], wanted: bool) -> None:
    """Raise ``PlanError`` unless every file has second moments or, if they are not wanted, none has."""
    for file in files:
        if wanted and file.moments is None:
            hint = "make it again with --second-moments, or leave it out"
            raise PlanError("has no second moments, unlike what it is merged with", path=file.path, hint=hint)
        if file.moments is not None and not wanted:
            hint = "give --second-moments, and only such files"
            raise PlanError("has second moments, unlike what it is merged with", path=file.path, hint=hint)


def check_block_width(files: Iterable[Imatrix], block_width: int) -> None:
    """Raise ``PlanError`` unless all second moments in the files are in blocks of ``block_width`` columns."""
    for file in files:
        if file.moments is not None and file.moments.block_width != block_width:
            problem = f"second moments in blocks of {file.moments.block_width} columns cannot be added to {block_width}"
            raise PlanError(problem, path=file.path, hint="make all with one --moments-width and --moments-size")


def merged_moments(parts: Sequence[Moments], sums: Mapping[str, Sums]) -> Moments:
    """Add the second moments of several runs, as if they were one run.

    Args:
        parts: one for each run, all of the same block width.
        sums: of all runs together, for the counts.

    Raises:
        QuantmillError: they belong to different models.
    """
    found: dict[tuple[str | None, ...], list[str]] = {}
    for name in sorted({name for part in parts for name in part.inputs}):
        found.setdefault(tuple(part.holder(name) for part in parts), []).append(name)
    inputs = {name: _holder(holders, names) for holders, names in found.items() for name in names}
    widths: dict[str, int] = {}
    for part in parts:
        for name in sorted(set(inputs.values()) & set(part.inputs)):
            if widths.setdefault(name, part.width(name)) != part.width(name):
                problem = "has other columns than in the files before"
                raise QuantmillError(problem, path=part.path, where=name, hint="the files belong to different models")
    for name in inputs:
        if not np.array_equal(sum(part.counts[name] for part in parts if name in part.inputs), sums[name].counts):
            raise QuantmillError(
                "has second moments in some of the files only",
                where=name,
                hint="make all of them with --second-moments",
            )

    def load(holder: str, matrix: int) -> Packed:
        total: Any = sum(part.packed(holder, matrix).astype(np.float64) for part in parts if part.holder(holder))
        packed: Packed = total.astype(np.float32)
        return packed

    return Moments(parts[0].block_width, inputs, widths, {name: sums[name].counts for name in inputs}, load)


def _holder(holders: tuple[str | None, ...], names: list[str]) -> str:
    """The name under which the files' ``holders`` are merged, for tensors that have the same input in all of them."""
    first = next(holder for holder in holders if holder is not None)
    return first if first in names else names[0]


def moments_with_prior(moments: Moments, min_tokens: int) -> Moments:
    """Fill up second moments as ``with_expert_prior`` does sums: their diagonals stay equal to the sums of squares."""
    totals = {holder: int(moments.counts[holder].sum()) for holder in moments.holders}

    def blends(name: str) -> bool:
        return moments.counts[name].size > 1 and totals[moments.inputs[name]] > 0

    last: dict[str, NDArray[np.float64]] = {}  # the layer's mean, of the input that was used last

    def load(holder: str, matrix: int) -> Packed:
        own = moments.packed(holder, matrix)
        count = moments.count(holder, matrix)
        if count >= min_tokens or not blends(holder):
            return own
        if holder not in last:
            last.clear()
            experts = range(moments.n_matrices(holder))
            layer: Any = sum(moments.packed(holder, expert).astype(np.float64) for expert in experts)
            last[holder] = layer / totals[holder]
        blended = (own + (min_tokens - count) * last[holder]) / min_tokens * max(count, 1)
        packed: Packed = blended.astype(np.float32)
        return packed

    counts = {name: np.maximum(n, 1) if blends(name) else n for name, n in moments.counts.items()}
    return Moments(moments.block_width, moments.inputs, moments.widths, counts, load, moments.path)
