"""``quantmill verify``: check that a file is whole, and how far its weights are from another's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.table import print_table

if TYPE_CHECKING:
    from ..quantize.compare import TensorReport
    from .api.verify import Verification


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    "b",
    type=click.Path(exists=True, path_type=Path),
    help="Compare each tensor with this GGUF file's or Hugging Face folder's.",
)
@click.option("--max-rmse", type=float, help="Fail when a tensor's RMSE, relative to its RMS, exceeds this.")
@click.option("--max-error", type=float, help="Fail when a tensor's largest absolute error exceeds this.")
@click.option("--min-cosine", type=float, help="Fail when a tensor's cosine similarity is below this.")
@click.option("--strict", is_flag=True, help="First check what readers forgive; see above.")
@click.option("--verbose", is_flag=True, help="Print the figures of every tensor, not only what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
@click.pass_context
def command(
    ctx: click.Context,
    a: Path,
    b: Path | None,
    max_rmse: float | None,
    max_error: float | None,
    min_cosine: float | None,
    strict: bool,
    verbose: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check the structure of A and that every weight in it decodes to a finite number.

    With --against, also measure each tensor's relative RMSE, largest error and cosine similarity. The exit code is 1
    when a weight is not finite, a tensor is missing on either side, or a bound is exceeded.

    --strict is for one GGUF file, or the shards of one model. It rejects what llama.cpp would not load, as far as keys,
    vocabulary and layout tell: wrong types and numbers, nested arrays, tokens that occur twice, names that it does not
    know. It also requires that padding is zero, that nothing lies between or after the tensors, and that the scales of
    every block are finite. Each violation is printed on a line with its place and its remedy; the exit code is 2.

    \b
    Example: quantmill verify model.Q4_K_M.gguf --against model-f16.gguf --min-cosine 0.99
             quantmill verify model.Q4_K_M.gguf --strict
    """
    from .api.verify import verify, verify_strict

    if strict and (violations := verify_strict(a)):
        for violation in violations:
            print_line(violation, err=True)
        ctx.exit(2)
    with ProgressDisplay(quiet=quiet) as progress:
        found = verify(a, b, max_rmse=max_rmse, max_error=max_error, min_cosine=min_cosine, progress=progress)
    if as_json:
        print_json(_as_json(a, b, found))
    else:
        if verbose and not quiet:
            _print_figures(found.tensors, compared=b is not None)
        for failure in found.failures:
            print_line(f"{a}: {failure}", err=True)
        if found.ok and not quiet:
            print_line(f"{a}: {len(found.tensors)} tensors, all well{_worst(found.tensors)}")
    ctx.exit(0 if found.ok else 1)


def _as_json(a: Path, b: Path | None, found: Verification) -> dict[str, object]:
    return {
        "file": str(a),
        "against": str(b) if b else None,
        "ok": found.ok,
        "failures": list(found.failures),
        "tensors": [vars(report) for report in found.tensors],
    }


def _print_figures(reports: Sequence[TensorReport], compared: bool) -> None:
    rows = [["tensor", "type", *(["rel. RMSE", "max error", "cosine"] if compared else [])]]
    for report in reports:
        row = [report.name, report.type]
        if report.rmse is not None:
            row += [f"{report.rmse:.3e}", f"{report.max_error:.3e}", f"{report.cosine:.7f}"]
        rows.append(row)
    print_table(rows, right=(2, 3, 4))


def _worst(reports: Sequence[TensorReport]) -> str:
    """The extremes of a comparison, to follow the number of tensors."""
    measured = [r for r in reports if r.rmse is not None and r.max_error is not None and r.cosine is not None]
    if not measured:
        return ""
    worst = max(measured, key=lambda report: report.rmse or 0.0)
    largest = max(report.max_error or 0.0 for report in measured)
    cosine = min(report.cosine or 0.0 for report in measured)
    return f"; rel. RMSE up to {worst.rmse:.3e} ({worst.name}), max error {largest:.3e}, cosine from {cosine:.7f}"
