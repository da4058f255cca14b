"""``quantmill evaluate``: perplexity, and the divergence of a model's predictions from its base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click

from .api.running import RunOptions
from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.running import judged_text_options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--base", type=click.Path(path_type=Path), help="What to compare with: GGUF, folder, or a --save-base file."
)
@click.option("--save-base", type=click.Path(path_type=Path), help="Save MODEL's predictions, for a later --base.")
@judged_text_options
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def command(
    model: Path, text: Path | None, base: Path | None, save_base: Path | None, run: RunOptions, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Measure MODEL on a text: perplexity, and against --base the KL divergence of its predictions.

    The figures are llama.cpp's: the second half of each chunk is judged. No file of logits is needed: both models run
    layer by layer, one after the other.

    \b
    Example: quantmill evaluate model.Q4_K_M.gguf -f test.txt --base model-f16.gguf
             quantmill evaluate model-f16.gguf -f test.txt --save-base base.npz
    """
    from .api.evaluation import evaluate

    with ProgressDisplay(quiet=quiet) as progress:
        figures = asdict(evaluate(model, text, base=base, save_base=save_base, run=run, progress=progress))
    if as_json:
        print_json({"model": str(model), "base": str(base) if base else None, **figures})
    else:
        _print(figures)


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


def _print(figures: Mapping[str, float]) -> None:
    for key, label, scale, form in _LINES:
        if key in figures:
            error = figures.get(f"{key}_error")
            tail = "" if error is None else f" ± {error * scale:{form}}"
            print_line(f"{label:<20}{figures[key] * scale:>12{form}}{tail}")
    print_line(f"{'tokens judged':<20}{figures['tokens']:>12}")
