"""The GGUF models of a release: what each is, what its files are called, how it is planned and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....formats.errors import PlanError
from ....formats.json_types import FLAG, TEXT, take
from ....formats.progress import Progress, note
from ....formats.storage.output import human_bytes
from ..options import SplitOptions
from ..splitting import jobs_of
from .towers import LEVELS as MMPROJ_LEVELS
from .towers import mmproj_name

if TYPE_CHECKING:
    from ....formats.ir import Model
    from ....quantize.execute import Job
    from ....quantize.plan import Plan, PlanOptions
    from .targets import TargetRecipe

_SPLIT_KEYS = 1 << 10  # bytes of what a shard says of its place in the set, at most


@dataclass(frozen=True)
class Member:
    """A GGUF model of a release.

    Args:
        level: the level it is quantized to; the float type of the original; empty for a target size.
        target: the size that its types were chosen for, such as ``4.2GB``.
        original: whether it holds the weights as they are.
        mmproj: whether it holds the towers.

    Example:
        >>> Member("Q4_K_M").file("Tiny"), Member(target="4.2GB").file("Tiny"), Member("F16", mmproj=True).file("Tiny")
        ('Tiny.Q4_K_M.gguf', 'Tiny.4.2GB.gguf', 'mmproj-Tiny-F16.gguf')
    """

    level: str = ""
    target: str = ""
    original: bool = False
    mmproj: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.target or self.level

    @property
    def measured(self) -> bool:
        """Whether its predictions may differ from the original's."""
        return not (self.original or self.mmproj)

    def file(self, stem: str) -> str:
        """The name of its file, before that is split."""
        return mmproj_name(stem, self.level) if self.mmproj else f"{stem}.{self.name}.gguf"

    def to_json(self) -> dict[str, object]:
        """Give the fields that differ from their defaults."""
        fields = {"level": self.level, "target": self.target, "original": self.original, "mmproj": self.mmproj}
        return {name: value for name, value in fields.items() if value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> Member:
        """Read the fields.

        Raises:
            FormatError: one is of another type.
        """
        found = partial(take, content, path=path, inside=inside)
        texts = (found(key, TEXT, "") for key in ("level", "target"))
        return cls(*texts, *(found(key, FLAG, False) for key in ("original", "mmproj")))


@dataclass(frozen=True)
class Planned:
    """A member with its plan, and its files: one, or shards.

    Args:
        member: what it is.
        plan: of the whole model.
        jobs: the plan and the path of each file.
        plain: the plan without refining, which is measured beside it; None where nothing is refined.
    """

    member: Member
    plan: Plan
    jobs: tuple[Job, ...]
    plain: Plan | None = None

    @property
    def path(self) -> Path:
        """The file that programs are given: the only one, or the first shard."""
        return self.jobs[0].path

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(job.plan.size for job in self.jobs)


def chosen_members(
    model: Model, towers: Model | None, levels: Sequence[str], targets: Sequence[str], *, original: bool
) -> tuple[Member, ...]:
    """The members of a release.

    Args:
        model: the model.
        towers: those of a model that sees or hears.
        levels: the levels, each once.
        targets: names of the target sizes.
        original: whether the weights as they are are a member, too.

    Raises:
        PlanError: the original would be the file of a level; two target sizes have one name.
    """
    twice = next((name for name, n in Counter(targets).items() if n > 1), None)
    if twice is not None:
        raise PlanError(f"two sizes are called {twice}", where="--target-size", hint="leave one of them out")
    members = [*(Member(level) for level in levels), *(Member(target=name) for name in targets)]
    if original:
        own = Member(_original_plan(model).level if model.from_checkpoint else _float_type(model), original=True)
        if own.level in levels:
            raise PlanError(f"has no effect: {own.level} is among the levels", where="--original", hint="leave it out")
        members.append(own)
    if towers is not None:
        members += [Member(level, mmproj=True) for level in MMPROJ_LEVELS]
    return tuple(members)


def plan_member(
    member: Member, model: Model, towers: Model | None, options: PlanOptions, targets: Mapping[str, TargetRecipe]
) -> Plan:
    """Plan one member.

    Args:
        options: those of all levels, with importance.
        targets: the recipes that were found for the target sizes, by name.

    Raises:
        PlanError, ImportanceMissing: see ``make_plan``.
    """
    from ....quantize.plan import make_plan

    if member.mmproj:
        assert towers is not None
        return make_plan(towers, member.level)
    if member.original:
        return _original_plan(model)
    if member.target:
        recipe = targets[member.target]
        return make_plan(model, recipe.level, replace(options, chosen_types=recipe.chosen_types()))
    return make_plan(model, member.level, options)


def planned(plan: Plan, member: Member, path: Path, split_max_size: int, progress: Progress | None = None) -> Planned:
    """A member with its files: one, or shards where that would be larger than ``split_max_size``.

    Args:
        path: the file, before it is split.
        split_max_size: the most bytes of a file with its header. Of towers, llama.cpp reads no shards.
        progress: told of a tensor that is larger.

    Raises:
        PlanError: not even the header fits.
    """
    from ....formats.gguf.writer import layout
    from ....quantize.execute import Job

    if member.mmproj or plan.size <= split_max_size:
        return Planned(member, plan, (Job(plan, path),))
    room = split_max_size - (plan.size - plan.tensor_bytes + _SPLIT_KEYS)
    if room <= 0:
        problem = f"{human_bytes(split_max_size)} are too little for the header of {path.name}"
        raise PlanError(problem, where="--split-max-size", hint="give a larger size")
    jobs = tuple(jobs_of(plan, path, SplitOptions(max_size=room), layout))
    large = max(jobs, key=lambda job: job.plan.size)
    if large.plan.size > split_max_size:
        size = human_bytes(large.plan.size)
        note(
            progress,
            f"{large.path.name} has {size}: one of its tensors is larger than --split-max-size",
            important=True,
        )
    return Planned(member, plan, jobs)


def _original_plan(model: Model) -> Plan:
    from ....quantize.plan import make_plan

    return make_plan(model, "auto" if model.from_checkpoint else "COPY")


def _float_type(model: Model) -> str:
    """The float type of a GGUF file.

    Raises:
        PlanError: it is quantized.
    """
    from ....quantize.choose import guess_float_type

    quantized = next((tensor for tensor in model.tensors if tensor.qtype.is_quantized), None)
    if quantized is not None:
        problem = f"the model is quantized already ({quantized.name} is {quantized.qtype})"
        raise PlanError(problem, where="--original", hint="leave it out, or give the float model")
    return guess_float_type(model).name
