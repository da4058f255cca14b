"""``imatrix``: which weights matter, learnt from a text, as a file that ``quantize --imatrix`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .api.checks import refuse
from .api.running import RunOptions
from .terminal.lines import print_json, print_line
from .terminal.options import cluster_from, cluster_options, given
from .terminal.progress import ProgressDisplay
from .terminal.running import device_option
from .terminal.units import Size

if TYPE_CHECKING:
    from ..imatrix.stats import TensorStatistics


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-m", "--model", type=click.Path(path_type=Path), help="GGUF file of any type, or Hugging Face folder.")
@click.option(
    "-f",
    "--file",
    "text",
    type=click.Path(path_type=Path),
    help="The text.  [default: the one that ships with quantmill]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="imatrix.gguf", show_default=True)
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2), help="Tokens in a chunk.  [default: 512]")
@click.option(
    "--chunks",
    type=click.IntRange(min=-1),
    help="Use at most so many chunks; -1 for all.  [default: all, or 65,536 tokens of the text that ships]",
)
@click.option("--from-chunk", "--chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use.")
@click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks computed together; 0 chooses.")
@click.option(
    "--in-file",
    "in_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="An importance matrix to merge. Repeatable.",
)
@click.option(
    "--output-format", type=click.Choice(["gguf", "dat"]), help="The output's format.  [default: by its suffix]"
)
@click.option(
    "--process-output", is_flag=True, help="Record the output matrix too (the embedding, where they are tied)."
)
@click.option("--parse-special", is_flag=True, help="Read control tokens in the text as tokens, not as letters.")
@click.option("--no-ppl", is_flag=True, help="Do not compute the text's perplexity.")
@click.option("--show-statistics", is_flag=True, help="Show statistics of the one --in-file, and do nothing else.")
@click.option("--json", "as_json", is_flag=True, help="With --show-statistics: print the statistics as JSON.")
@click.option(
    "--dtype",
    type=click.Choice(["f32", "bf16", "auto"]),
    default="f32",
    show_default=True,
    help="The type of the arithmetic; auto: bf16 where there are units for it.",
)
@device_option
@click.option("--for", "level", metavar="LEVEL", help="First list the tensors that need importance at this level.")
@click.option("--restart", is_flag=True, help="Discard the state of an unfinished run instead of resuming it.")
@click.option(
    "--save-every",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Save the state every so many layers; 0 for never.",
)
@click.option(
    "--no-expert-prior", is_flag=True, help="Leave experts that saw few tokens as they are, to be merged later."
)
@click.option("--skip-bad-chunks", is_flag=True, help="Leave out a chunk that gives NaN or Inf, instead of stopping.")
@click.option("--second-moments", is_flag=True, help="Record how inputs vary together too, for quantize --refine.")
@click.option(
    "--moments-width",
    type=click.IntRange(min=256),
    metavar="N",
    help="Columns of a block of second moments: as many as --refine-width will ask for.  "
    "[default: 256, or as the --in-file has]",
)
@click.option(
    "--moments-size",
    type=Size(),
    default="4GiB",
    show_default=True,
    metavar="SIZE",
    help="The most that second moments may take; narrower blocks of columns are recorded to fit.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--quiet", is_flag=True, help="Do not show progress and reports.")
@cluster_options
def command(
    model: Path | None, text: Path | None, output: Path, n_ctx: int | None, chunks: int | None, from_chunk: int,
    batch: int, in_files: tuple[Path, ...], output_format: Literal["gguf", "dat"] | None, process_output: bool,
    parse_special: bool, no_ppl: bool, show_statistics: bool, as_json: bool, dtype: Literal["f32", "bf16", "auto"],
    device: str, level: str | None, restart: bool, save_every: int, no_expert_prior: bool, skip_bad_chunks: bool,
    second_moments: bool, moments_width: int | None, moments_size: int, force: bool, quiet: bool, cluster: str | None,
    workers: int | None,
) -> None:  # fmt: skip
    """Make an importance matrix: run a text through a model and record what enters each weight.

    Only one layer's weights are in memory at a time. Without -m, the --in-file matrices are merged.

    \b
    Example: imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf
             imatrix -c 512 --chunks 100 -m Meta-Llama-3-8B-Instruct -o imat.dat --for IQ2_XS
             imatrix --in-file a.gguf --in-file b.gguf -o merged.gguf
    """
    from .api.importance import collect_imatrix, merge_imatrices

    if as_json and not show_statistics:
        raise click.UsageError("--json goes with --show-statistics")
    _check_given(merges=model is None and bool(in_files), show_statistics=show_statistics)
    if show_statistics:
        _show_statistics(in_files, n_ctx, as_json)
        return
    if model is None and not in_files:
        raise click.UsageError("nothing to do: give a model with -m, or matrices to merge with --in-file")
    run = RunOptions(
        n_ctx=n_ctx, chunks=chunks, first_chunk=from_chunk, batch=batch, parse_special=parse_special, dtype=dtype,
        device=device, skip_bad_chunks=skip_bad_chunks,
    )  # fmt: skip
    with ProgressDisplay(quiet=quiet) as progress:
        if model is None:
            made = merge_imatrices(
                in_files, output, n_ctx=n_ctx, output_format=output_format, expert_prior=not no_expert_prior,
                second_moments=second_moments, force=force, progress=progress,
            )  # fmt: skip
        else:
            made = collect_imatrix(
                model, output, text=text, run=run, merge=in_files, output_format=output_format,
                process_output=process_output, perplexity=not no_ppl, expert_prior=not no_expert_prior,
                second_moments=second_moments, moments_width=moments_width, moments_size=moments_size, level=level,
                cluster=cluster_from(cluster, workers), save_every=save_every, restart=restart, force=force,
                progress=progress,
            )  # fmt: skip
    if quiet:
        return
    if made.perplexity is not None:
        figures = made.perplexity
        print_line(f"perplexity {figures.perplexity:.4f} ± {figures.perplexity_error:.4f}", err=True)
    counts = f"{len(made.imatrix.entries)} tensors, {made.imatrix.chunk_count} chunks"
    print_line(f"{output}: {counts}, {made.seconds:.1f} s", err=True)


_OF_STATISTICS = ("--in-file", "--ctx-size", "--show-statistics", "--json", "--quiet")
_OF_MERGES = (
    "--in-file", "--output", "--ctx-size", "--output-format", "--no-expert-prior", "--second-moments", "--force",
    "--quiet",
)  # fmt: skip


def _check_given(*, merges: bool, show_statistics: bool) -> None:
    """Refuse options of a run where no model is run."""
    if show_statistics:
        refuse({name: is_given and name not in _OF_STATISTICS for name, is_given in given().items()},
               "--show-statistics does nothing else")  # fmt: skip
    elif merges:
        refuse({name: is_given and name not in _OF_MERGES for name, is_given in given().items()},
               "without -m the files are merged")  # fmt: skip


def _show_statistics(in_files: Sequence[Path], n_ctx: int | None, as_json: bool) -> None:
    from ..imatrix.stats import by_layer
    from .api.importance import imatrix_statistics

    if len(in_files) != 1:
        raise click.UsageError("--show-statistics needs exactly one --in-file")
    rows = imatrix_statistics(in_files[0], n_ctx)
    if as_json:
        layers = [
            {"layer": layer, "total": total, "high": high, "similarity": similarity}
            for layer, (total, high, similarity) in by_layer(rows).items()
        ]
        print_json({"file": str(in_files[0]), "tensors": [vars(row) for row in rows], "layers": layers})
    else:
        _print_statistics(rows)


def _print_statistics(rows: list[TensorStatistics]) -> None:
    from ..imatrix.stats import by_layer

    heads = ("sum(act²)", "min", "max", "mean", "dev", "active", "n", "entropy", "E(norm)", "ZD", "cossim")
    print_line(f"{'layer':>5} {'tensor':<16}" + "".join(f"{head:>13}" for head in heads))
    for row in rows:
        norm = row.entropy / log2(row.n) if row.n > 1 else 0.0
        numbers = (row.total, row.smallest, row.largest, row.mean, row.deviation)
        cells = [f"{number:.4f}" for number in numbers] + [f"{row.active:.2%}", str(row.n), f"{row.entropy:.4f}"]
        cells += [f"{norm:.2%}", f"{row.high:.2%}", f"{row.similarity:.4f}"]
        layer = "-" if row.layer is None else row.layer
        print_line(f"{layer:>5} {row.tensor:<16}" + "".join(f"{cell:>13}" for cell in cells))
    print_line()
    print_line(f"{'layer':>5}{'sum(act²)':>14}{'ZD':>10}{'cossim':>9}")
    for layer, (total, high, similarity) in by_layer(rows).items():
        print_line(f"{layer:>5}{total:>14.2f}{high:>10.4%}{similarity:>9.4f}")
