"""``quantmill compare``: several files of a model beside each other, by their predictions' divergence from one base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..formats.errors import OutputError, PlanError
from ..formats.storage.endings import ending
from ..formats.storage.output import check_writable, exists_error, human_bytes
from .api.running import RunOptions
from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.running import judged_text_options
from .terminal.table import print_table

if TYPE_CHECKING:
    from .api.comparison import ComparedModel, ModelComparison, ModelSize, PairedDifference

_HEADS = (
    "file", "size", "bpw", "perplexity", "mean KLD", "99 %", "99.9 %", "max", "same top (%)", "KLD - first file's",
)  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@judged_text_options
@click.option("--plot", type=click.Path(path_type=Path), help="Draw size against divergence: an .svg or .png file.")
@click.option("--force", is_flag=True, help="Replace the picture if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures, and the differences of every two, as JSON.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def command(
    base: Path, models: tuple[Path, ...], text: Path | None, run: RunOptions, plot: Path | None, force: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare each MODEL with BASE on a text: size, perplexity, KL divergence, and how often both agree.

    The figures are those of evaluate, but BASE runs once. The last column is how much more a model diverges than the
    first: its error is that of the differences at each position, so it tells models apart that the others cannot.

    \b
    Example: quantmill compare model-f16.gguf ours.Q4_K_M.gguf theirs.Q4_K_M.gguf -f test.txt --plot sizes.svg
    """
    from .api.comparison import compare_models
    from .api.size_plot import plot_comparison

    if plot is not None:
        _check_plot(plot, force)
    elif force:
        raise PlanError("has no effect: there is no --plot", where="--force", hint="leave it out")
    with ProgressDisplay(quiet=quiet) as progress:
        found = compare_models(base, models, text, run=run, progress=progress)
    if plot is not None:
        plot_comparison(found, plot)
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)


def _check_plot(path: Path, force: bool) -> None:
    if ending(path) not in (".svg", ".png"):
        raise OutputError("is neither .svg nor .png", path=path, hint="name it so")
    if path.exists() and not force:
        raise exists_error(path)
    check_writable(path)


def _as_json(found: ModelComparison) -> dict[str, object]:
    return {
        "base": str(found.base),
        **({} if found.base_size is None else {f"base_{name}": n for name, n in _size_json(found.base_size).items()}),
        "text": found.text,
        "chunks": found.n_chunks,
        "ctx_size": found.n_ctx,
        "models": [
            {"model": str(model.path), **_size_json(model.size), **asdict(model.figures)} for model in found.models
        ],
        "differences": [
            {**asdict(pair), "first": str(pair.first), "second": str(pair.second)} for pair in found.differences
        ],
    }


def _size_json(size: ModelSize) -> dict[str, float]:
    return {"bytes": size.nbytes, "bpw": size.bpw}


def _print(found: ModelComparison) -> None:
    one = found.models[0].figures
    base = ["", ""] if found.base_size is None else _size_cells(found.base_size)
    perplexity = f"{one.base_perplexity:.4f} ± {one.base_perplexity_error:.4f}"
    rows = [[found.base.name, *base, perplexity]]
    firsts = [None, *found.differences[: len(found.models) - 1]]  # those of the first model come first
    rows += [_cells(model, pair) for model, pair in zip(found.models, firsts, strict=True)]
    print_table([_HEADS, *rows], right=range(1, len(_HEADS)))
    print_line(f"{found.text}: {found.n_chunks} chunks of {found.n_ctx} tokens, {one.tokens} judged")


def _size_cells(size: ModelSize) -> list[str]:
    return [human_bytes(size.nbytes), f"{size.bpw:.2f}"]


def _cells(model: ComparedModel, pair: PairedDifference | None) -> list[str]:
    of = model.figures
    return [
        model.path.name,
        *_size_cells(model.size),
        f"{of.perplexity:.4f} ± {of.perplexity_error:.4f}",
        f"{of.kld_mean:.6f} ± {of.kld_mean_error:.6f}",
        *(f"{value:.4f}" for value in (of.kld_p99, of.kld_p999, of.kld_max)),
        f"{of.top1 * 100:.2f} ± {of.top1_error * 100:.2f}",
        "" if pair is None else f"{pair.kld:+.6f} ± {pair.kld_error:.6f}",
    ]
