"""A digest of everything that a plan's output depends on: runs with the same digest write the same bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ..formats.storage.source import file_stamps
from ..formats.version import __version__
from .kernels.cachedir import sources_digest
from .plan import Plan

if TYPE_CHECKING:
    from .refine.refiner import Refiner


def fingerprint(plan: Plan, refiner: Refiner | None = None) -> str:
    """The digest of a plan, in hex.

    It covers the program, the header, each tensor's type, place and importance, and the source files by name, size and
    time of change: to read them whole would take as long as the work itself.

    Args:
        plan: the plan.
        refiner: what refines the steps that are to be refined, or None.
    """
    digest = hashlib.sha256(f"{__version__} {sources_digest()} {plan.layout.byteorder}\n".encode())
    for offset, piece in plan.layout.pieces:
        digest.update(f"{offset} {len(piece)}\n".encode())
        digest.update(piece)
    for step in plan.steps:
        digest.update(
            f"{step.tensor.name} {step.tensor.qtype} {step.type} {step.offset}\n".encode("utf-8", "surrogateescape")
        )
        if step.uses_importance:
            digest.update(np.ascontiguousarray(plan.importance[step.tensor.name], "<f4").data)
    if refiner is not None:
        refined = " ".join(step.tensor.name for step in plan.steps if step.refined)
        digest.update(f"{refiner.identity} {refined}\n".encode("utf-8", "surrogateescape"))
    digest.update(file_stamps(plan.source.paths).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
