"""Refining the levels of a release: where second moments come from, and how they are recorded.

Second moments are collected with importance, in one run of the text. Their file is gigabytes for large models, so it is
a working file: what is published is the importance alone, and how to collect the moments again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....formats.errors import PlanError
from ....formats.json_types import OBJECT, POSITIVE_WHOLE, TEXT, WHOLE, take
from ....formats.progress import Progress, note
from ..options import StrPath
from .fields import SIZE, needed

if TYPE_CHECKING:
    from ....formats.moments_file import Moments
    from ....quantize.plan import Plan, PlanOptions
    from ....quantize.refine.refiner import Refiner
    from ..running import RunOptions


@dataclass(frozen=True)
class RefinementFacts:
    """How a release was refined.

    Args:
        width: how many columns correct each other, at most.
        sha256: of the second moments; see ``moments_digest``.
        moments_size: the most bytes of them, which decides their blocks' width.
        chunks: how many chunks of the text they were collected from; None for all.
    """

    width: int
    sha256: str
    moments_size: int
    chunks: int | None = None

    def to_json(self) -> dict[str, object]:
        """Give the fields as JSON has them."""
        moments = {"sha256": self.sha256, "size": self.moments_size, "chunks": self.chunks}
        return {"width": self.width, "moments": moments}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> RefinementFacts:
        """Read the fields.

        Raises:
            FormatError: they are not those of a refinement.
        """
        moments = needed(content, "moments", OBJECT, path=path, inside=inside)
        found = partial(needed, moments, path=path, inside=f"{inside}moments.")
        chunks = take(moments, "chunks", WHOLE, path=path, inside=f"{inside}moments.")
        width = needed(content, "width", POSITIVE_WHOLE, path=path, inside=inside)
        return cls(width, found("sha256", TEXT), found("size", SIZE), chunks)


def collect_both(
    model: Path, moments: Path, imatrix: Path | None, text: StrPath | None, run: RunOptions, width: int,
    size: int, progress: Progress | None,
) -> None:  # fmt: skip
    """Collect importance and second moments; what is there already stays.

    Args:
        model: the model's file or folder.
        moments: the file for both.
        imatrix: the file for importance alone, or None.
        text, run: see ``collect_imatrix``.
        width: how many columns will correct each other, at most.
        size: the most bytes of second moments.

    Raises:
        QuantmillError: see ``collect_imatrix``.
    """
    from ....formats.imatrix_file import read_imatrix, write_imatrix
    from ..importance import collect_imatrix

    if not moments.exists():
        collect_imatrix(
            model, moments, text=text, run=run, perplexity=False, second_moments=True, moments_width=width,
            moments_size=size, progress=progress,
        )  # fmt: skip
    if imatrix is not None and not imatrix.exists():
        write_imatrix(imatrix, replace(read_imatrix(moments), moments=None))


def refined_by(moments: Path, width: int, options: PlanOptions) -> tuple[PlanOptions, Refiner]:
    """The options of plans that are refined, and what refines them.

    Args:
        moments: an importance matrix's file with second moments.
        width: how many columns correct each other, at most.
        options: with importance.

    Raises:
        PlanError: the file holds no second moments.
    """
    from ....quantize.refine.refiner import Refiner

    refiner = Refiner(_moments_of(moments), width)
    return replace(options, moments=refiner.moments), refiner


def can_be_refined(plan: Plan) -> bool:
    """Whether a plan with importance has tensors whose types are refined."""
    from ....quantize.refine import REFINED

    return any(step.uses_importance and step.type.name in REFINED for step in plan.steps)


def moments_digest(path: Path) -> str:
    """SHA-256 of the second moments in a file: of their names, shapes and sums, whatever else the file says."""
    moments = _moments_of(path)
    digest = hashlib.sha256(f"{moments.block_width}\n".encode())
    for holder in moments.holders:
        n, size = moments.shape(holder)
        digest.update(f"{holder} {n} {size}\n".encode("utf-8", "surrogateescape"))
        for matrix in range(n):
            digest.update(f"{moments.count(holder, matrix)}\n".encode())
            digest.update(moments.packed(holder, matrix).astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def check_again(path: Path, facts: RefinementFacts, progress: Progress | None) -> None:
    """Say if second moments that were collected again are not those of the release."""
    if moments_digest(path) != facts.sha256:
        line = "the second moments differ from the release's, as sums do on another kind of processor"
        note(progress, f"{line}; refined files can differ, too", important=True)


def _moments_of(path: Path) -> Moments:
    from ....formats.imatrix_file import read_imatrix

    moments = read_imatrix(path).moments
    if moments is None:
        raise PlanError("holds no second moments", path=path, hint="make it with imatrix --second-moments")
    return moments
