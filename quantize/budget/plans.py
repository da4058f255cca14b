"""A plan for a file of a given size: every tensor's type chosen, the file never larger, and hardly smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.gguf.writer import align
from ...formats.ir import Model, Tensor
from ...formats.qtypes import F16, QType
from ...formats.storage.output import human_bytes
from ..choose import Wishes, choose_types
from ..plan import Importance, Plan
from ..recipes import LEVELS, find_recipe
from .knapsack import Option, allocate
from .losses import SAMPLE, Sensitivity, candidates, losses

if TYPE_CHECKING:
    from ..refine.refiner import Refiner

_BASE = "Q8_0"  # the level everything is planned at first: its file has the header and the kept tensors of any other

# Two ways to give a budget, from a base plan to the bytes of the file.
Limit = Callable[[Plan], int]


@dataclass(frozen=True)
class Budgeted:
    """A plan and what is expected of it.

    Args:
        limit: bytes the file may have.
        loss: nats a token, the sum of the choices' losses; a KL divergence, to second order.
        losses: by tensor name and type, all that were measured.
    """

    plan: Plan
    limit: int
    loss: float
    losses: Mapping[str, Mapping[QType, float]]


def of_size(nbytes: int) -> Limit:
    """A budget for the whole file."""
    return lambda base: nbytes


def of_bpw(bpw: float) -> Limit:
    """A budget for the tensors, in bits per weight; header and padding come on top."""
    return lambda base: base.size - base.tensor_bytes + int(bpw * base.n_weights / 8)


def budget_plan(
    model: Model,
    limit: Limit,
    plan: partial[Plan],
    *,
    wishes: Wishes | None = None,
    importance: Importance | None = None,
    refiner: Refiner | None = None,
    sensitivity: Callable[[], Mapping[str, Sensitivity]] = dict,
    threads: int = 1,
    sample: int = SAMPLE,
    progress: Callable[[int, int], object] | None = None,
) -> Budgeted:
    """The plan that loses least within the limit.

    Args:
        model: the source.
        limit: ``of_size`` or ``of_bpw``.
        plan: ``make_plan`` with everything but the level and the choice.
        wishes: those ``plan`` was given; what they ask for is not touched.
        refiner: for what will be refined.
        sample: weights of each tensor that are tried.
        sensitivity: gives it by tensor name, asked only once the limit is known to be possible; what is typical of a
            tensor's part where there is none.

    Raises:
        PlanError: the limit is smaller than the smallest possible file, or larger than one of 16-bit floats.
    """
    wishes = wishes or Wishes()
    base = plan(_BASE)
    nbytes = limit(base)
    first = choose_types(model, find_recipe(_BASE), wishes, importance is not None)
    open_ = [t for t in model.tensors if t.name in first and not first[t.name].reason.startswith("--")]
    _check_sources(model, open_)
    types = {t.name: candidates(t, _has_importance(t, importance)) for t in open_}
    padded = partial(_padded, alignment=base.layout.alignment)
    fixed = base.size - sum(padded(t, first[t.name].type) for t in open_)
    _check_range(nbytes, fixed, [[padded(t, type) for type in types[t.name]] for t in open_])
    measured = losses(
        model, types, importance or {}, sensitivity(),
        refiner=refiner, threads=threads, sample=sample, progress=progress,
    )  # fmt: skip
    by_type = {t.name: dict(zip(types[t.name], measured[t.name], strict=True)) for t in open_}
    options = [[Option(type, padded(t, type), loss) for type, loss in by_type[t.name].items()] for t in open_]
    picked = allocate(options, nbytes - fixed)
    chosen = {t.name: option.type for t, option in zip(open_, picked, strict=True)}
    found = plan(_nearest_level(open_, chosen), chosen=chosen)
    assert found.size <= nbytes, (found.size, nbytes)
    return Budgeted(found, nbytes, sum(option.loss for option in picked), by_type)


def expected_loss(budgeted: Budgeted, plan: Plan) -> float | None:
    """The loss of another plan, by the same figures; None where it takes a type that was not measured."""
    total = 0.0
    for step in plan.steps:
        by_type = budgeted.losses.get(step.tensor.name)
        if by_type is not None and step.type is not step.tensor.qtype:
            if step.type not in by_type:
                return None
            total += by_type[step.type]
    return total


def _has_importance(tensor: Tensor, importance: Importance | None) -> bool:
    """Whether the plan will use importance for it."""
    vector = (importance or {}).get(tensor.name)
    stacked = tensor.n_weights // (tensor.shape[-2] * tensor.width)
    return vector is not None and vector.size == tensor.width * stacked


def _padded(tensor: Tensor, type: QType, alignment: int) -> int:
    return align(tensor.n_rows * type.row_bytes(tensor.width), alignment)


def _check_sources(model: Model, tensors: list[Tensor]) -> None:
    again = [t for t in tensors if t.qtype.is_quantized]
    if again:
        problem = f"{len(again)} tensors are quantized already (the first as {again[0].qtype})"
        hint = "a budget is shared out from a float file"
        raise PlanError(problem, path=model.path, where=again[0].name, hint=hint)


def _check_range(nbytes: int, fixed: int, sizes: list[list[int]]) -> None:
    least, most = (fixed + sum(map(of, sizes)) for of in (min, max))
    if nbytes < least:
        problem = f"{human_bytes(nbytes)} ({nbytes} bytes) are too little: the smallest possible file has {least} bytes"
        raise PlanError(problem, hint=f"{human_bytes(least)}; with --imatrix smaller types are possible")
    if nbytes > most:
        problem = f"{human_bytes(nbytes)} are more than the model has: {most} bytes in 16-bit floats"
        raise PlanError(problem, hint="convert it to F16 instead")


def _nearest_level(tensors: list[Tensor], chosen: Mapping[str, QType]) -> str:
    """The level to note in the file: that of the type which most weights have."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[chosen[tensor.name].name] += tensor.n_weights
    weights.pop(F16.name, None)
    weights.pop("BF16", None)
    main = max(weights, key=lambda name: (weights[name], name), default=_BASE)
    return next(level for level in (f"{main}_M", main, _BASE) if level in LEVELS)
