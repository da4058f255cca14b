"""The shards that a plan's output is split into while it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import OutputError, PlanError
from ...formats.progress import Progress, note
from ...formats.storage.endings import without_ending
from .options import SplitOptions

if TYPE_CHECKING:
    from ...quantize.execute import Job
    from ...quantize.plan import MakeLayout, Plan

# The fields of SplitOptions as the commands call them.
SPLIT_FLAGS = {
    "keep": "--keep-split",
    "max_size": "--split-max-size",
    "max_tensors": "--split-max-tensors",
    "empty_first": "--no-tensor-first-split",
    "partial": "--partial",
}


def split_options_given(split: SplitOptions) -> dict[str, bool]:
    """Whether each option differs from its default, by the name that the commands give it."""
    return {flag: getattr(split, name) not in (None, False) for name, flag in SPLIT_FLAGS.items()}


def check_split(split: SplitOptions) -> None:
    """Raise ``PlanError`` for options that exclude each other, or say how to split where nothing is split."""
    ways = [flag for flag, given in split_options_given(split).items() if given and flag in _WAYS]
    if len(ways) > 1:
        raise PlanError(f"excludes {ways[1]}", where=ways[0], hint="give one of them")
    for flag in ("--partial", "--no-tensor-first-split"):
        if split_options_given(split)[flag] and (not ways or (ways == ["--keep-split"] and flag != "--partial")):
            hint = "give one of --split-max-size, --split-max-tensors" + ("" if ways else ", --keep-split")
            raise PlanError("says how to split, and nothing is split by size", where=flag, hint=hint)
    if (split.max_size or 1) < 1 or (split.max_tensors or 1) < 1:
        raise PlanError("a shard holds something", where=ways[0], hint="give a larger number")


_WAYS = ("--keep-split", "--split-max-size", "--split-max-tensors")


def jobs_of(plan: Plan, path: Path, split: SplitOptions, layout: MakeLayout) -> list[Job]:
    """The files of a plan: one, or the shards whose names begin with the path's without its ending."""
    from ...quantize.execute import Job
    from ...quantize.sharded import split_as_source, split_by_size

    if not split.splits:
        return [Job(plan, path)]
    prefix = path.with_name(without_ending(path.name, ".gguf"))
    if split.keep:
        parts = split_as_source(plan, prefix, layout)
    else:
        parts = split_by_size(
            plan, prefix, layout,
            max_tensors=split.max_tensors, max_bytes=split.max_size, empty_first=split.empty_first,
        )  # fmt: skip
    return [Job(part, shard) for shard, part in parts]


def missing_jobs(jobs: Sequence[Job], progress: Progress | None) -> list[Job]:
    """The jobs whose file is not there.

    Raises:
        OutputError: a file is there, and is another one.
    """
    missing = [job for job in jobs if not job.path.exists()]
    for job in jobs:
        if job not in missing and not _is_whole(job):
            hint = "remove it, or leave --partial out"
            raise OutputError("is another file than the shard that belongs here", path=job.path, hint=hint)
    if len(missing) < len(jobs):
        what = "taken by header and size; their weights are not compared"
        note(progress, f"{len(jobs) - len(missing)} of {len(jobs)} shards are there, {what}", important=True)
    return missing


def _is_whole(job: Job) -> bool:
    """Whether the file has the header and the size of the job's."""
    layout = job.plan.layout
    if job.path.stat().st_size != layout.size:
        return False
    with job.path.open("rb") as file:
        return all(os.pread(file.fileno(), len(piece), offset) == piece for offset, piece in layout.pieces)
