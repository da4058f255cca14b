"""``quantmill verify``: is this file whole, and how far are its weights from another's?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..formats.ir import Model
    from ..quantize.compare import TensorReport


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    "b",
    type=click.Path(exists=True, path_type=Path),
    help="The GGUF file or Hugging Face folder to compare each tensor with.",
)
@click.option("--max-rmse", type=float, help="Fail when a tensor's RMSE, relative to its RMS, exceeds this.")
@click.option("--max-error", type=float, help="Fail when a tensor's largest absolute error exceeds this.")
@click.option("--min-cosine", type=float, help="Fail when a tensor's cosine similarity is below this.")
@click.option("--strict", is_flag=True, help="First check what a reader forgives: see below.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Print failures only.")
@click.pass_context
def command(
    ctx: click.Context,
    a: Path,
    b: Path | None,
    max_rmse: float | None,
    max_error: float | None,
    min_cosine: float | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check the structure of A and that every weight in it decodes to a finite number.

    With --against, also measure each tensor's relative RMSE, largest error and cosine. Ends with 1 when a weight is
    not finite, a tensor is missing on either side, or a bound is passed.

    --strict is for one GGUF file, or the shards of one model: padding is zero, tensors lie in order with nothing
    between or after them, metadata has the types and values that llama.cpp wants, the tokenizer's arrays fit one
    another and the embedding, every block's scales are finite. Each thing wrong is a line with its place and remedy;
    the command ends with 2.

    \b
    Example: quantmill verify model.Q4_K_M.gguf --against model-f16.gguf --min-cosine 0.99
    """
    from ..quantize.compare import compare
    from .library.models import read_model

    if strict and (wrong := _strict(a)):
        for line in wrong:
            click.echo(line, err=True)
        ctx.exit(2)
    model = read_model(a)
    base = read_model(b) if b else None
    reports = list(compare(model, base))
    bounds = {"rmse": max_rmse, "max_error": max_error, "cosine": min_cosine}
    failures = [line for report in reports for line in _failures(report, **bounds)]
    failures += _missing(model, base)
    if as_json:
        rows = [vars(report) for report in reports]
        click.echo(json.dumps({"file": str(a), "against": str(b) if b else None, "ok": not failures,
                               "failures": failures, "tensors": rows}))  # fmt: skip
    else:
        if not quiet:
            _print_table(reports, compared=base is not None)
        for line in failures:
            click.echo(f"{a}: {line}", err=True)
        if not failures and not quiet:
            click.echo(f"{a}: {len(reports)} tensors, all well")
    ctx.exit(1 if failures else 0)


def _strict(path: Path) -> list[str]:
    from ..formats.errors import FormatError
    from ..formats.gguf.strict import check_gguf
    from .library.models import source_kind

    if source_kind(path) != "gguf":
        raise FormatError("--strict is for GGUF files", path=path, hint="leave it out")
    return [str(error) for error in check_gguf(path)]


def _failures(report: TensorReport, rmse: float | None, max_error: float | None, cosine: float | None) -> list[str]:
    found = []
    if report.non_finite:
        found.append(f"{report.name}: {report.non_finite} weights are NaN or Inf")
    if rmse is not None and report.rmse is not None and report.rmse > rmse:
        found.append(f"{report.name}: relative RMSE {report.rmse:.3g} exceeds {rmse:g}")
    if max_error is not None and report.max_error is not None and report.max_error > max_error:
        found.append(f"{report.name}: largest error {report.max_error:.3g} exceeds {max_error:g}")
    if cosine is not None and report.cosine is not None and report.cosine < cosine:
        found.append(f"{report.name}: cosine {report.cosine:.6f} is below {cosine:g}")
    return found


def _missing(model: Model, base: Model | None) -> list[str]:
    if base is None:
        return []
    ours, theirs = ({tensor.name: tensor.shape for tensor in side} for side in (model, base))
    found = [f"{name}: not in {base.path}" for name in ours if name not in theirs]
    found += [f"{name}: only in {base.path}" for name in theirs if name not in ours]
    found += [
        f"{name}: shape {list(shape)}, but {list(theirs[name])} in {base.path}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    return found


def _print_table(reports: list[TensorReport], compared: bool) -> None:
    width = max((len(report.name) for report in reports), default=4)
    figures = f"{'rel. RMSE':>11}{'max error':>12}{'cosine':>11}" if compared else ""
    click.echo(f"{'tensor':<{width}}  {'type':<8}{figures}")
    for report in reports:
        line = f"{report.name:<{width}}  {report.type:<8}"
        if report.rmse is not None:
            line += f"{report.rmse:>11.3e}{report.max_error:>12.3e}{report.cosine:>11.7f}"
        click.echo(line)
