"""What a release would hold, on the terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ...formats.storage.output import human_bytes
from .lines import print_line
from .table import print_table

if TYPE_CHECKING:
    from ..api.releasing.dry_run import ReleasePlan


def print_plan(found: ReleasePlan, *, public: bool) -> None:
    """Print the files in a table, and below it what stands beside them, where they go, and what they take.

    Args:
        public: whether a repository that is made would be public.
    """
    rows = [("file", "model", "bits", "size")]
    for file in found.files:
        bits = "" if file.bpw is None else f"{file.bpw:.2f}"
        rows.append((file.name, file.member, bits, f"{'at most ' * file.at_most}{human_bytes(file.nbytes)}"))
    print_table(rows, right=(2, 3))
    print_line(f"beside them: {', '.join(found.beside)}")
    if found.calibration is not None:
        print_line(f"importance would be collected from {found.calibration}")
    if found.evaluation is not None:
        print_line(f"files would be measured on {found.evaluation}")
    if found.repository is not None:
        how = f"would be made, {'public' if public else 'private'}" if found.makes_repository else "exists"
        print_line(f"all would be uploaded to {found.repository}, which {how}")
    print_line(
        f"{found.folder}: {len(found.files)} files, {human_bytes(found.nbytes)}; "
        f"{human_bytes(found.disk)} of disk are needed at most, {human_bytes(found.free)} are free"
    )


def plan_json(found: ReleasePlan) -> dict[str, object]:
    """The same as JSON has it."""
    return {**asdict(found), "folder": str(found.folder), "nbytes": found.nbytes}
