"""A plan whose output is split as its source is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..formats.errors import PlanError
from ..formats.gguf.shards import shard_path, with_split
from ..formats.gguf.writer import TensorInfo, ggml_shape
from .plan import MakeLayout, Plan


def split_as_source(plan: Plan, prefix: str | Path, layout: MakeLayout) -> tuple[tuple[Path, Plan], ...]:
    """One plan a shard, each tensor in the shard it came from, in the source's order: as llama-quantize --keep-split.

    Args:
        plan: of a model that was read from shards.
        prefix: the shards are ``prefix-00001-of-0000N.gguf``.
        layout: as ``make_plan`` was given.

    Raises:
        PlanError: the source is one file.
    """
    shards = plan.source.shards
    if not shards:
        raise PlanError("is one file, no shards to keep", path=plan.source.path, hint="quantmill split makes shards")
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
