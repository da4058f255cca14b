"""Members of a release with a size instead of a level: their names, and the recipes that are found for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....formats.errors import FormatError
from ....formats.json_types import TEXT, JsonType, by_name
from ....formats.progress import Progress, note
from ....formats.qtypes import BY_NAME, QType
from ....formats.storage.output import human_bytes
from ..options import SizeTarget, StrPath
from .fields import SIZE, needed

if TYPE_CHECKING:
    from ....formats.ir import Model
    from ....quantize.plan import PlanOptions
    from ....quantize.refine.refiner import Refiner

_UNITS = (("GB", 10**9), ("MB", 10**6), ("GiB", 1 << 30), ("MiB", 1 << 20), ("kB", 1000), ("KiB", 1 << 10))
_TYPES = by_name(JsonType("a type of tensors", lambda value: isinstance(value, str) and value in BY_NAME), "types")


def size_name(nbytes: int) -> str:
    """What a file of a target size is called: the size in the largest unit that gives it exactly, else in bytes.

    Example:
        >>> [size_name(n) for n in (4_200_000_000, 9 << 29, 350_000_000, 123_456_789)]
        ['4.2GB', '4.5GiB', '350MB', '123456789B']
    """
    for unit, of in _UNITS:
        whole, hundredths = divmod(nbytes * 100, of)
        if hundredths == 0 and whole >= 100:
            return f"{whole / 100:g}{unit}"
    return f"{nbytes}B"


@dataclass(frozen=True)
class TargetRecipe:
    """The recipe that was found for a target size.

    Args:
        nbytes: the most bytes that the file may have.
        level: the level that the file says to be of: that of the type which most weights have.
        types: the type of each tensor that one was chosen for, by name.
    """

    nbytes: int
    level: str
    types: Mapping[str, str]

    def chosen_types(self) -> dict[str, QType]:
        """The types as ``PlanOptions.chosen_types`` takes them."""
        return {name: BY_NAME[type] for name, type in self.types.items()}

    def to_json(self) -> dict[str, object]:
        """Give the fields as JSON has them."""
        return {"bytes": self.nbytes, "level": self.level, "types": dict(self.types)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> TargetRecipe:
        """Read the fields.

        Raises:
            FormatError: they are not those of a recipe.
        """
        found = partial(needed, content, path=path, inside=inside)
        return cls(found("bytes", SIZE), found("level", TEXT), found("types", _TYPES))


def recipes_from_json(content: Mapping[str, Any], path: Path, inside: str = "") -> dict[str, TargetRecipe]:
    """Read the recipes of target sizes, by name.

    Raises:
        FormatError: they are not described as recipes.
    """
    recipes = {}
    for name, about in content.items():
        if not isinstance(about, dict):
            raise FormatError("is no object", path=path, where=f"{inside}{name[:80]}")
        recipes[name] = TargetRecipe.from_json(about, path, f"{inside}{name[:80]}.")
    return recipes


def find_recipes(
    sizes: Sequence[int],
    model: Model,
    options: PlanOptions,
    *,
    refiner: Refiner | None,
    text: StrPath | None,
    threads: int | None,
    progress: Progress | None,
) -> dict[str, TargetRecipe]:
    """Find the recipe for each size; what tensors lose is measured once for all.

    Args:
        sizes: in bytes, checked before.
        options: those of all levels, with importance.
        refiner: refines the tensors that have second moments, or None.
        text: what to measure the sensitivity of tensors on; None for the text that ships with the package.

    Raises:
        PlanError: see ``make_budgeted_plan``. QuantmillError: the text cannot be read.
    """
    from ..target import plans_for_targets

    if not sizes:
        return {}
    targets = [SizeTarget(nbytes=size, sensitivity_text=None if text is None else Path(text)) for size in sizes]
    found = {}
    for size, budget in zip(sizes, plans_for_targets(
        model, targets, options, refiner=refiner, threads=threads, progress=progress
    ), strict=True):  # fmt: skip
        types = {step.tensor.name: step.type.name for step in budget.plan.steps if step.tensor.name in budget.losses}
        name = size_name(size)
        found[name] = TargetRecipe(size, budget.plan.level, types)
        plan = budget.plan
        note(progress, f"{name}: {plan.bpw:.2f} bits per weight, {human_bytes(plan.size)}, around {plan.level}")
    return found
