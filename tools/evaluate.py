"""``quantmill evaluate``: perplexity, and the divergence of a model's predictions from its base's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..formats.errors import PlanError
from .api.running import RunOptions
from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.running import judged_text_options
from .terminal.table import print_table

if TYPE_CHECKING:
    from ..imatrix.evaluate import Evaluation


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--base", type=click.Path(path_type=Path), help="What to compare with: GGUF, folder, or a --save-base file."
)
@click.option("--save-base", type=click.Path(path_type=Path), help="Save MODEL's predictions, for a later --base.")
@judged_text_options
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def command(
    models: tuple[Path, ...], text: Path | None, base: Path | None, save_base: Path | None, run: RunOptions,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure MODEL on a text: perplexity, and against --base the KL divergence of its predictions.

    The figures are llama.cpp's: the second half of each chunk is judged. No file of logits is needed: the models run
    layer by layer, one after the other. Of several models each has the figures of a run of its own, but the base runs
    once for all, and the text is tokenized once. `quantmill compare` shows sizes and paired differences, too.

    \b
    Example: quantmill evaluate model.Q4_K_M.gguf -f test.txt --base model-f16.gguf
             quantmill evaluate model.Q4_K_M.gguf model.Q5_K_M.gguf -f test.txt --base model-f16.gguf
             quantmill evaluate model-f16.gguf -f test.txt --save-base base.npz
    """
    from .api.comparison import compare_models
    from .api.evaluation import evaluate

    if save_base is not None and len(models) > 1:
        raise PlanError("saves the predictions of one model", where="--save-base", hint="name one")
    found: Sequence[Evaluation]
    with ProgressDisplay(quiet=quiet) as progress:
        if base is not None and len(models) > 1:
            compared = compare_models(base, models, text, run=run, progress=progress)
            found = [model.figures for model in compared.models]
        else:
            found = [evaluate(m, text, base=base, save_base=save_base, run=run, progress=progress) for m in models]
    if as_json:
        rows = [{"model": str(model), **asdict(figures)} for model, figures in zip(models, found, strict=True)]
        told = {"base": str(base) if base else None}
        print_json({**told, **rows[0]} if len(rows) == 1 else {**told, "models": rows})
    elif len(models) == 1:
        _print(found[0])
    else:
        _print_beside(models, found)


_LINES = (
    ("perplexity", "perplexity", 1.0, ".4f"),
    ("base_perplexity", "  of the base", 1.0, ".4f"),
    ("log_ppl_ratio", "ln(PPL / PPL base)", 1.0, ".6f"),
    ("kld_mean", "mean KLD", 1.0, ".6f"),
    ("kld_median", "median KLD", 1.0, ".6f"),
    ("kld_p90", "90 % KLD", 1.0, ".6f"),
    ("kld_p99", "99 % KLD", 1.0, ".6f"),
    ("kld_p999", "99.9 % KLD", 1.0, ".6f"),
    ("kld_max", "maximum KLD", 1.0, ".6f"),
    ("dp_mean", "mean Δp (%)", 100.0, ".3f"),
    ("dp_rms", "RMS Δp (%)", 100.0, ".3f"),
    ("top1", "same top token (%)", 100.0, ".3f"),
)


def _print(found: Evaluation) -> None:
    figures = asdict(found)
    for key, label, scale, form in _LINES:
        if key in figures:
            error = figures.get(f"{key}_error")
            tail = "" if error is None else f" ± {error * scale:{form}}"
            print_line(f"{label:<20}{figures[key] * scale:>12{form}}{tail}")
    print_line(f"{'tokens judged':<20}{figures['tokens']:>12}")


def _print_beside(models: Sequence[Path], found: Sequence[Evaluation]) -> None:
    """A column for each model."""
    columns = [asdict(figures) for figures in found]
    rows = [["", *(model.name for model in models)]]
    for key, label, scale, form in _LINES:
        if key in columns[0]:
            rows.append([label, *(f"{figures[key] * scale:{form}}" for figures in columns)])
            if f"{key}_error" in columns[0]:
                rows.append(["  ±", *(f"{figures[f'{key}_error'] * scale:{form}}" for figures in columns)])
    rows.append(["tokens judged", *(str(figures["tokens"]) for figures in columns)])
    print_table(rows, right=range(1, len(models) + 1))
