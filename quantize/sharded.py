"""Splitting a plan's output into shards: as its source is split, or by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..formats.errors import PlanError
from ..formats.gguf.shards import shard_path, with_split
from ..formats.gguf.split import group_sizes
from .plan import MakeLayout, Plan, Step


def split_as_source(plan: Plan, prefix: str | Path, layout: MakeLayout) -> tuple[tuple[Path, Plan], ...]:
    """Make one plan for each shard, as llama-quantize --keep-split does.

    Each tensor stays in the shard that it came from, in the source's order.

    Args:
        plan: the plan of a model that was read from shards.
        prefix: what the shards' names begin with: ``prefix-00001-of-0000N.gguf``.
        layout: the layout that ``plan`` was made with.

    Returns:
        (path, plan) of each shard.

    Raises:
        PlanError: the source is a single file.
    """
    shards = plan.source.shards
    if not shards:
        raise PlanError(
            "is a single file: there are no shards to keep",
            path=plan.source.path,
            hint="leave out --keep-split, and split the output with quantmill split",
        )
    steps = {step.tensor.name: step for step in plan.steps}
    groups = []
    start = 0
    for shard in shards:
        tensors = plan.source.tensors[start : start + shard.n_tensors]
        start += shard.n_tensors
        groups.append([steps[tensor.name] for tensor in tensors])
    return _plans(plan, prefix, layout, groups, count_last=False)


def split_by_size(
    plan: Plan,
    prefix: str | Path,
    layout: MakeLayout,
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    empty_first: bool = False,
) -> tuple[tuple[Path, Plan], ...]:
    """Make one plan for each shard: the shards that ``quantmill split`` and llama-gguf-split make of the whole file.

    Args:
        plan, prefix, layout: see ``split_as_source``.
        max_tensors, max_bytes, empty_first: see ``formats.gguf.split.group_sizes``.

    Raises:
        PlanError: there would be too many shards.
    """
    sizes = [step.nbytes for step in plan.steps]
    counts = group_sizes(
        sizes, max_tensors=max_tensors, max_bytes=max_bytes, empty_first=empty_first, path=plan.source.path
    )
    groups, start = [], 0
    for count in counts:
        groups.append(plan.steps[start : start + count])
        start += count
    return _plans(plan, prefix, layout, groups, count_last=True)


def _plans(
    plan: Plan, prefix: str | Path, layout: MakeLayout, groups: Sequence[Sequence[Step]], *, count_last: bool
) -> tuple[tuple[Path, Plan], ...]:
    plans = []
    for i, steps in enumerate(groups):
        metadata = with_split(plan.metadata if i == 0 else {}, i, len(groups), len(plan.steps), count_last=count_last)
        place = layout(metadata, plan.infos(steps))
        placed = tuple(replace(step, offset=at) for step, at in zip(steps, place.offsets, strict=True))
        plans.append((shard_path(prefix, i, len(groups)), replace(plan, steps=placed, metadata=metadata, layout=place)))
    return tuple(plans)
