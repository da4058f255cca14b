"""Options of plans from an importance matrix's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...formats.errors import PlanError, name_list
from ...formats.progress import Progress, note
from ...quantize.patterns import TypeRule as TypeRule
from ...quantize.plan_options import PlanOptions as PlanOptions
from ...quantize.prune import parse_layers as parse_layers

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.importance import ImportanceFit as ImportanceFit
    from ...quantize.plan import Plan
    from ...quantize.refine.refiner import Refiner

DEFAULT_REFINE_WIDTH = 256  # a super-block of the k-quants, of which other widths are multiples
_NAMED = 5  # entries in a line


def with_imatrix(
    options: PlanOptions,
    model: Model,
    imatrix: Path | None,
    *,
    name: str | None = None,
    refine: bool = False,
    refine_width: int | None = None,
    progress: Progress | None = None,
) -> tuple[PlanOptions, Refiner | None]:
    """Add what an importance matrix's file holds to a plan's options.

    Args:
        options: the options; returned as they are if ``imatrix`` is None.
        model: the model to plan for.
        imatrix: the file, ``.gguf`` or ``.dat``.
        name: the file's name as it is noted in the output; None for the path itself.
        refine: use the file's second moments to let later weights correct the errors of earlier ones.
        refine_width: how many columns correct each other, at most, a multiple of 256; None for 256.
        progress: told if ``refine_width`` is more than the file holds.

    Returns:
        the options, and what refines the weights, or None.

    Raises:
        PlanError: the file holds no tensor of the model, or no second moments; ``refine`` is given without a file, or
            the options have importance already; ``refine_width`` is of no use, or no multiple of 256.
        FormatError: the file is damaged.
    """
    check_refine(refine, refine_width)
    if imatrix is None:
        if refine:
            hint = "--imatrix FILE, made by imatrix --second-moments"
            raise PlanError("needs an importance matrix with second moments", where="--refine", hint=hint)
        if not options.imatrix_metadata:
            raise PlanError("has no effect: there is no importance", where="--no-imatrix-metadata", hint="leave it out")
        return options, None
    if options.importance is not None or options.moments is not None:
        raise PlanError("the options have importance already", where="imatrix", hint="give one of them")
    from ...formats.imatrix_file import read_imatrix
    from ...quantize.importance import check_matches, chosen, matching

    read = read_imatrix(imatrix)
    vectors = read.vectors()
    check_matches(model, vectors, imatrix)
    importance = chosen(vectors, options.include_weights, options.exclude_weights)
    provenance = read.provenance(name or imatrix, len(matching(model, importance)))
    if not importance:
        note(progress, f"{imatrix}: --exclude-weights leaves no entry: no importance is used", important=True)
    if not (importance and options.imatrix_metadata):
        provenance = {}
    options = replace(
        options,
        importance=importance,
        include_weights=(),
        exclude_weights=(),
        extra_metadata={**options.extra_metadata, **provenance},
    )
    if not refine:
        return options, None
    if read.moments is None:
        raise PlanError("holds no second moments", path=imatrix, hint="make it with imatrix --second-moments")
    from ...quantize.refine.refiner import Refiner

    refine_width = refine_width or DEFAULT_REFINE_WIDTH
    if refine_width > max(DEFAULT_REFINE_WIDTH, read.moments.block_width):
        held = read.moments.block_width
        most = f"its second moments are in blocks of {held} columns (imatrix --moments-width)"
        note(progress, f"{imatrix}: {most}; --refine-width ends there")
    refiner = Refiner(read.moments, refine_width)
    return replace(options, moments=refiner.moments), refiner


def check_refine(refine: bool, refine_width: int | None) -> None:
    """Raise ``PlanError`` for a width that has no effect, or is no multiple of 256."""
    if refine_width is None:
        return
    if not refine:
        raise PlanError("needs --refine", where="--refine-width", hint="leave it out")
    if refine_width % DEFAULT_REFINE_WIDTH or refine_width < 1:
        raise PlanError(f"{refine_width} is not a multiple of {DEFAULT_REFINE_WIDTH}", where="--refine-width")


def report_importance(plan: Plan, path: Path, progress: Progress | None) -> None:
    """Say which entries of an importance matrix's file a plan does not use, and which tell nothing.

    Args:
        plan: made with the file's importance.
        path: the file.
        progress: told each in a line.
    """
    fit = plan.importance_fit
    if fit is None:
        return
    if fit.missed:
        counts = f"{len(fit.missed)} of {len(plan.importance)} entries belong to no tensor of this model"
        names = name_list(fit.missed, _NAMED)
        note(progress, f"warning: {path}: {counts}, or to one of another width: {names}", important=True)
    flat = [name for name in fit.weighed if np.ptp(plan.importance[name]) == 0]
    if flat:
        counts = f"{len(flat)} entries give all columns the same importance, as if they had seen no input"
        note(progress, f"warning: {path}: {counts}: {name_list(flat, _NAMED)}", important=True)
