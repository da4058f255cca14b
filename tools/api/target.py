"""Choosing each tensor's type for a target size, with sensitivities measured by running the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...formats.errors import PlanError, QuantmillError, TokenizerError, UnknownArchitecture, UnmatchedTensor
from ...formats.progress import Note, Progress
from .options import SizeTarget

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.budget.losses import Sensitivity
    from ...quantize.budget.plans import BudgetedPlan, Limit
    from ...quantize.plan import PlanOptions
    from ...quantize.refine.refiner import Refiner

_CONTEXT = 256  # tokens in a chunk of the text that sensitivities are measured on
# Chunks of the text for large and for small models, so that a CPU takes some minutes at most up to 8 billion weights.
_LEAST_CHUNKS, _MOST_CHUNKS = 4, 16
_CHUNKS_TIMES_WEIGHTS = 16 * 10**9
_CANNOT_RUN = (UnknownArchitecture, TokenizerError, UnmatchedTensor, ImportError)


def plan_for_target(
    model: Model,
    target: SizeTarget,
    options: PlanOptions,
    *,
    refiner: Refiner | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> BudgetedPlan:
    """Plan the file of a target size that loses least.

    Args:
        model: a float file's or a checkpoint's.
        target: the size, checked before.
        options: as ``make_plan`` takes them.
        refiner: refines the tensors that have second moments, or None.
        threads: None for one for each CPU.
        progress: called with typed events.

    Raises:
        PlanError: see ``make_budgeted_plan``. QuantmillError: the target's text cannot be read.
    """
    (found,) = plans_for_targets(model, [target], options, refiner=refiner, threads=threads, progress=progress)
    return found


def plans_for_targets(
    model: Model,
    targets: Sequence[SizeTarget],
    options: PlanOptions,
    *,
    refiner: Refiner | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[BudgetedPlan]:
    """Plan the files of several target sizes; the model is run, and types are tried, once for all.

    Args:
        targets: checked before. How sensitivities are found is that of the first.
        model, options, refiner, threads, progress: see ``plan_for_target``.

    Raises:
        PlanError, QuantmillError: see ``plan_for_target``.
    """
    from ...quantize.budget.plans import make_budgeted_plans
    from ...quantize.threads import cpu_count

    check_targets(model, targets, options)
    first = targets[0]
    return make_budgeted_plans(
        model,
        [_limit(target) for target in targets],
        options,
        refiner=refiner,
        sensitivity=dict if first.typical_sensitivity else lambda: _measure(model, first, progress),
        threads=threads or cpu_count(),
        progress=progress,
    )


def check_targets(model: Model, targets: Sequence[SizeTarget], options: PlanOptions) -> None:
    """Raise ``PlanError`` for a target that no file of the model can have, before any weight is read."""
    from ...quantize.budget.plans import find_room
    from ...quantize.plan import make_plan

    if options.pure:
        raise PlanError("takes one type for all tensors; a target chooses a type for each", where="--pure")
    make_plan(model, "F16", options)  # raises if an option is wrong
    find_room(model, [_limit(target) for target in targets], options)


def _limit(target: SizeTarget) -> Limit:
    from ...quantize.budget.plans import of_bpw, of_size

    return of_size(target.nbytes) if target.nbytes is not None else of_bpw(target.bpw or 0)


def _measure(model: Model, target: SizeTarget, progress: Progress | None) -> dict[str, Sensitivity]:
    """Measured sensitivities; none for a model that cannot be run, which a warning says."""
    from ...quantize.budget.losses import Sensitivity
    from ...quantize.decode import as_float

    try:
        from ...imatrix.sensitivity import measure_sensitivity
        from ...imatrix.weights import Weights
        from .running import RunOptions, open_text

        weights = Weights(as_float(model))
        n_weights = sum(tensor.n_weights for tensor in model.tensors)
        chunks = min(_MOST_CHUNKS, max(_LEAST_CHUNKS, _CHUNKS_TIMES_WEIGHTS // n_weights))
        corpus = open_text(weights, target.sensitivity_text, RunOptions(n_ctx=_CONTEXT, chunks=chunks))
        figures = measure_sensitivity(weights, corpus, progress=progress)
    except _CANNOT_RUN as error:
        if target.sensitivity_text is not None and isinstance(error, QuantmillError):
            raise
        if progress is not None:
            progress(Note(f"warning: {error}; usual sensitivities are assumed", important=True))
        return {}
    return {name: Sensitivity(found.scales, found.columns) for name, found in figures.items()}
