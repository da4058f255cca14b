"""Splitting a plan's output into shards as its source is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..formats.errors import PlanError
from ..formats.gguf.shards import shard_path, with_split
from ..formats.gguf.writer import TensorInfo, ggml_shape
from .plan import MakeLayout, Plan


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
    plans = []
    start = 0
    for i, shard in enumerate(shards):
        tensors = plan.source.tensors[start : start + shard.n_tensors]
        start += shard.n_tensors
        metadata = with_split(plan.metadata if i == 0 else {}, i, len(shards), len(steps), count_last=False)
        ours = [steps[tensor.name] for tensor in tensors]
        place = layout(metadata, [TensorInfo(s.tensor.name, ggml_shape(s.tensor.shape), s.type) for s in ours])
        placed = tuple(replace(step, offset=at) for step, at in zip(ours, place.offsets, strict=True))
        plans.append((shard_path(prefix, i, len(shards)), replace(plan, steps=placed, metadata=metadata, layout=place)))
    return tuple(plans)
