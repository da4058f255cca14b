"""The plan of a file for a target size: each tensor's type is chosen so that the file loses least within the size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.gguf.image_archs import DECODED, is_image
from ...formats.gguf.wire import align
from ...formats.ir import Model, Tensor
from ...formats.progress import Progress
from ...formats.qtypes import F16, QType
from ...formats.storage.output import human_bytes
from ..choose import choose_types
from ..images import recipe_set_of
from ..plan import Importance, Plan, PlanOptions, make_plan
from ..recipes import find_recipe, recipes_of
from .knapsack import Option, allocate
from .losses import SAMPLE, Sensitivity, candidates, losses

if TYPE_CHECKING:
    from ..refine.refiner import Refiner

_BASE = "Q8_0"  # the level that is planned first; files of all levels have its header and its kept tensors
_NO_OPTIONS = PlanOptions()

Limit = Callable[[Plan], int]  # from the base level's plan to the most bytes that the file may have


@dataclass(frozen=True)
class BudgetedPlan:
    """A plan for a target size, and the loss to expect.

    Args:
        plan: the plan.
        limit: the most bytes that the file may have.
        loss: the sum of the chosen types' losses in nats per token; to second order, the KL divergence.
        losses: all losses that were measured, by tensor name and type.

    Example:
        >>> from quantmill import BudgetedPlan, PlanOptions, make_plan, tiny_llama
        >>> plan = make_plan(tiny_llama(), "Q8_0")
        >>> budgeted = BudgetedPlan(plan, limit=10 * plan.size, loss=0.0, losses={})
        >>> budgeted.plan.size < budgeted.limit
        True
    """

    plan: Plan
    limit: int
    loss: float
    losses: Mapping[str, Mapping[QType, float]]


def of_size(nbytes: int) -> Limit:
    """A limit for the whole file, in bytes."""
    return lambda base: nbytes


def of_bpw(bpw: float) -> Limit:
    """A limit for the tensors in bits per weight; the header and padding are not counted."""
    return lambda base: base.size - base.tensor_bytes + int(bpw * base.n_weights / 8)


def make_budgeted_plan(
    model: Model,
    limit: Limit,
    options: PlanOptions = _NO_OPTIONS,
    *,
    refiner: Refiner | None = None,
    sensitivity: Callable[[], Mapping[str, Sensitivity]] = dict,
    threads: int = 1,
    sample: int = SAMPLE,
    progress: Progress | None = None,
) -> BudgetedPlan:
    """Plan the file that loses least within a limit.

    Args:
        model: the source, a float file or a checkpoint.
        limit: ``of_size(nbytes)`` or ``of_bpw(bits)``.
        options: as ``make_plan`` takes them. Types that they ask for are kept.
        refiner: refines the tensors that have second moments, or None.
        sensitivity: gives the sensitivities by tensor name. It is called once the limit is known to be possible, for it
            may take long. ``typical_sensitivity`` is assumed for tensors that it lacks.
        threads: how many tensors to try types on at a time.
        sample: about how many weights of each tensor to try.
        progress: called with a ``StepDone`` for each tensor that types were tried on.

    Raises:
        PlanError: the limit is smaller than the smallest possible file, or larger than one of 16-bit floats; the source
            is quantized; see also ``make_plan``.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> rows = np.random.default_rng(0).standard_normal((8, 256), np.float32)
        >>> model = model_from_arrays("llama", {"blk.0.ffn_up.weight": rows})
        >>> found = make_budgeted_plan(model, of_bpw(7))
        >>> [step.type.name for step in found.plan.steps]
        ['Q6_K']
    """
    (found,) = make_budgeted_plans(
        model, [limit], options,
        refiner=refiner, sensitivity=sensitivity, threads=threads, sample=sample, progress=progress,
    )  # fmt: skip
    return found


def make_budgeted_plans(
    model: Model,
    limits: Sequence[Limit],
    options: PlanOptions = _NO_OPTIONS,
    *,
    refiner: Refiner | None = None,
    sensitivity: Callable[[], Mapping[str, Sensitivity]] = dict,
    threads: int = 1,
    sample: int = SAMPLE,
    progress: Progress | None = None,
) -> list[BudgetedPlan]:
    """Plan the files that lose least within each of several limits. What types lose is measured once for all.

    Args:
        limits: one at least.
        model, options, refiner, sensitivity, threads, sample, progress: see ``make_budgeted_plan``.

    Raises:
        PlanError: see ``make_budgeted_plan``.
    """
    options = replace(options, recipe_set=recipe_set_of(model, options.recipe_set))
    room = find_room(model, limits, options)
    measured = losses(
        model, room.types, options.importance or {}, sensitivity(),
        refiner=refiner, threads=threads, sample=sample, progress=progress,
    )  # fmt: skip
    by_type = {t.name: dict(zip(room.types[t.name], measured[t.name], strict=True)) for t in room.free}
    rows = [[Option(type, room.padded(t, type), loss) for type, loss in by_type[t.name].items()] for t in room.free]
    plans = []
    for nbytes in room.nbytes:
        picked = allocate(rows, nbytes - room.fixed)
        chosen = {t.name: option.type for t, option in zip(room.free, picked, strict=True)}
        level = _nearest_level(room.free, chosen, recipes_of(options.recipe_set))
        found = make_plan(model, level, replace(options, chosen_types=chosen))
        assert found.size <= nbytes, (found.size, nbytes)
        plans.append(BudgetedPlan(found, nbytes, sum(option.loss for option in picked), by_type))
    return plans


@dataclass(frozen=True)
class Room:
    """What there is to choose within limits.

    Args:
        nbytes: the most bytes that each file may have.
        free: the tensors whose type is to be chosen.
        types: the types that each could have.
        fixed: the bytes of everything else.
        padded: gives the bytes of a tensor in a type, with its padding.
    """

    nbytes: Sequence[int]
    free: Sequence[Tensor]
    types: Mapping[str, Sequence[QType]]
    fixed: int
    padded: Callable[[Tensor, QType], int]


def find_room(model: Model, limits: Sequence[Limit], options: PlanOptions = _NO_OPTIONS) -> Room:
    """Find what there is to choose, and check that each limit is possible. No weight is read.

    Raises:
        PlanError: see ``make_budgeted_plan``.
    """
    options = replace(options, recipe_set=recipe_set_of(model, options.recipe_set))
    base = make_plan(model, _BASE, options)
    first = choose_types(model, find_recipe(_BASE, options.recipe_set), options)
    free = [t for t in model.tensors if t.name in first and not first[t.name].option]
    _check_sources(model, free)
    types = {t.name: candidates(t, _has_importance(t, options.importance)) for t in free}
    if is_image(model.arch):
        types = {name: tuple(type for type in found if type.name in DECODED) for name, found in types.items()}
    padded = partial(_padded, alignment=base.layout.alignment)
    fixed = base.size - sum(padded(t, first[t.name].type) for t in free)
    room = Room([limit(base) for limit in limits], free, types, fixed, padded)
    for nbytes in room.nbytes:
        _check_range(nbytes, fixed, [[padded(t, type) for type in types[t.name]] for t in free])
    return room


def expected_loss(budgeted: BudgetedPlan, plan: Plan) -> float | None:
    """The loss of another plan by the same measurements; None if it has a type that was not measured."""
    total = 0.0
    for step in plan.steps:
        by_type = budgeted.losses.get(step.tensor.name)
        if by_type is not None and step.type is not step.tensor.qtype:
            if step.type not in by_type:
                return None
            total += by_type[step.type]
    return total


def _has_importance(tensor: Tensor, importance: Importance | None) -> bool:
    """Whether the plan will use importance for the tensor."""
    vector = (importance or {}).get(tensor.name)
    stacked = tensor.n_weights // (tensor.shape[-2] * tensor.width)
    return vector is not None and vector.size == tensor.width * stacked


def _padded(tensor: Tensor, type: QType, alignment: int) -> int:
    return align(tensor.n_rows * type.row_bytes(tensor.width), alignment)


def _check_sources(model: Model, tensors: list[Tensor]) -> None:
    again = [t for t in tensors if t.qtype.is_quantized]
    if again:
        problem = f"{len(again)} tensors are quantized already (the first as {again[0].qtype})"
        hint = "start from a float file to choose types for a size"
        raise PlanError(problem, path=model.path, where=again[0].name, hint=hint)


def _check_range(nbytes: int, fixed: int, sizes: list[list[int]]) -> None:
    least, most = (fixed + sum(map(of, sizes)) for of in (min, max))
    if nbytes < least:
        problem = f"{human_bytes(nbytes)} ({nbytes} bytes) are too little: the smallest possible file has {least} bytes"
        raise PlanError(problem, hint=f"give {human_bytes(least)} or more; with --imatrix smaller types are possible")
    if nbytes > most:
        problem = f"{human_bytes(nbytes)} are more than the model has: {most} bytes in 16-bit floats"
        raise PlanError(problem, hint="convert it to F16 instead")


def _nearest_level(tensors: Sequence[Tensor], chosen: Mapping[str, QType], levels: Container[str]) -> str:
    """The level to name in the file: that of the type which most weights have."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[chosen[tensor.name].name] += tensor.n_weights
    weights.pop(F16.name, None)
    weights.pop("BF16", None)
    main = max(weights, key=lambda name: (weights[name], name), default=_BASE)
    return next(level for level in (f"{main}_M", main, _BASE) if level in levels)
