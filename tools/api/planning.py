"""Options of plans from an importance matrix's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...quantize.plan_options import PlanOptions as PlanOptions

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.refine.refiner import Refiner


def with_imatrix(
    options: PlanOptions,
    model: Model,
    imatrix: Path | None,
    *,
    name: str | None = None,
    refine: bool = False,
    refine_width: int = 256,
) -> tuple[PlanOptions, Refiner | None]:
    """Add what an importance matrix's file holds to a plan's options.

    Args:
        options: the options; returned as they are if ``imatrix`` is None.
        model: the model to plan for.
        imatrix: the file, ``.gguf`` or ``.dat``.
        name: the file's name as it is noted in the output; None for the path itself.
        refine: use the file's second moments to let later weights correct the errors of earlier ones.
        refine_width: how many columns correct each other, at most; rounded down to a multiple of 256.

    Returns:
        the options, and what refines the weights, or None.

    Raises:
        PlanError: the file holds no tensor of the model, or no second moments; or ``refine`` is given without a file.
        FormatError: the file is damaged.
    """
    if imatrix is None:
        if refine:
            hint = "--imatrix FILE, made by imatrix --second-moments"
            raise PlanError("needs an importance matrix with second moments", where="--refine", hint=hint)
        return options, None
    from ...formats.imatrix_file import read_imatrix

    read = read_imatrix(imatrix)
    importance = read.vectors()
    if not any(tensor.name in importance for tensor in model):
        raise PlanError("holds no tensor of this model", path=imatrix, hint="it was made from another model")
    options = replace(options, importance=importance, extra_metadata=read.provenance(name or imatrix))
    if not refine:
        return options, None
    if read.moments is None:
        raise PlanError("holds no second moments", path=imatrix, hint="make it with imatrix --second-moments")
    from ...quantize.refine.refiner import Refiner

    refiner = Refiner(read.moments, max(256, refine_width // 256 * 256))
    return replace(options, moments=refiner.moments), refiner
