"""``quantmill plan``: print the size of a model's file at every level, before anything is written or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.options import imatrix_option, mtp_options, quiet_option, recipe_set_option, target_options
from .terminal.progress import ProgressDisplay
from .terminal.table import print_table
from .terminal.units import Size, in_gb

if TYPE_CHECKING:
    from ..formats.hf.tables.further import Mtp
    from ..quantize.estimate.levels import LevelSize
    from .api.options import SizeTarget
    from .api.sizes import Format, SizeTable


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("levels", metavar="[LEVEL]...", nargs=-1)
@click.option(
    "--format",
    "format",
    type=click.Choice(("gguf", "ggml", "gptq")),
    default="gguf",
    show_default=True,
    help="What would be written.",
)
@recipe_set_option
@imatrix_option
@click.option(
    "--ctx", type=click.IntRange(min=1), default=4096, show_default=True, help="The context to run at, in tokens."
)
@click.option("--fits", type=Size(), metavar="SIZE", help="Show only the best level that runs in so much memory.")
@target_options
@mtp_options
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@quiet_option
def command(
    model: Path,
    levels: tuple[str, ...],
    format: Format,
    recipe_set: str | None,
    imatrix: Path | None,
    ctx: int,
    fits: int | None,
    target: SizeTarget | None,
    mtp: Mtp,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the size of MODEL's file at each LEVEL, or at all levels.

    MODEL is a Hugging Face folder, a config.json alone, a GGUF or a GGML file. No weight is read. The sizes are exactly
    those of files that convert or quantize write. "Max RAM" is the size and 2.5 GB, as on published model cards; the
    column beside it counts weights, key/value cache and buffers at --ctx.

    \b
    Example: quantmill plan Meta-Llama-3-8B-Instruct
             quantmill plan config.json Q4_K_M Q5_K_M --json
             quantmill plan model-f16.gguf --fits 8GiB --ctx 8192
             quantmill plan Llama-2-13b-hf --format gptq
             quantmill plan model-f16.gguf --target-bpw 4.0 --imatrix model.imatrix.gguf
    """
    from ..quantize.plan import PlanOptions
    from .api.sizes import plan

    options = PlanOptions(recipe_set=recipe_set)
    if target is not None:
        if levels or format != "gguf" or fits is not None:
            raise click.UsageError("--target-size and --target-bpw choose the types of a GGUF file, whatever the level")
        from .api.checks import refuse
        from .api.convert import convert
        from .api.options import ReadOptions
        from .terminal.options import given
        from .terminal.plans import choice_as_json, print_choice

        refuse(given("ctx"), "a target is a size, whatever the context")
        with ProgressDisplay(quiet=quiet) as progress:
            found = convert(
                model,
                imatrix=imatrix,
                target=target,
                options=options,
                read=ReadOptions(mtp=mtp),
                dry_run=True,
                progress=progress,
            )
        if as_json:
            print_json(choice_as_json(found))
        else:
            print_choice(found)
        return
    with ProgressDisplay(quiet=quiet) as progress:
        table = plan(
            model, levels, format=format, imatrix=imatrix, options=options, ctx=ctx, mtp=mtp, progress=progress
        )
    best = None if fits is None else table.best_fit(fits)
    if as_json:
        facts = _as_json(model, table)
        if best is not None:
            facts["fits"] = {"limit_bytes": fits, "level": best.level}
        print_json(facts)
        return
    rows = table.levels if best is None else (best,)
    if not quiet:
        _print_heading(model, table)
    _print_rows(table, rows)
    if not quiet:
        _print_notes(table, rows)
    else:
        _print_remarks(table, rows)


def _as_json(path: Path, table: SizeTable) -> dict[str, object]:
    from .terminal.plans import importance_as_json

    levels = [
        {
            "level": row.level,
            "bytes": row.nbytes,
            "bpw": round(row.bpw, 4),
            "max_ram_bytes": row.max_ram,
            "run_bytes": table.run_bytes[row.level],
            "types": row.types,
            "fallbacks": sum(row.fallbacks.values()),
            "fallback_types": row.fallbacks,
            "fallback_bytes": row.fallback_bytes,
            "needs_importance": row.needs_importance,
            "importance": importance_as_json(row.importance_fit),
            "remarks": list(row.remarks),
        }
        for row in table.levels
        if not row.problem
    ]
    return {
        "model": str(path),
        "architecture": table.model.arch,
        "format": table.format,
        "recipe_set": table.recipe_set,
        "weights": sum(tensor.n_weights for tensor in table.model),
        "ctx": table.ctx,
        "levels": levels,
        "impossible": {row.level: row.problem for row in table.levels if row.problem},
        "vocabulary_assumed": table.vocabulary_assumed,
    }


def _print_heading(path: Path, table: SizeTable) -> None:
    n = sum(tensor.n_weights for tensor in table.model)
    count = f"{n / 1e9:.2f} billion" if n >= 1e9 else f"{n / 1e6:.2f} million"
    recipes = f", recipe set {table.recipe_set}" if table.recipe_set else ""
    print_line(f"{path}: {table.model.arch}, {count} weights; as {table.format}{recipes}")


def _print_rows(table: SizeTable, rows: tuple[LevelSize, ...]) -> None:
    cells = [("level", "size", "bpw", "max RAM", f"RAM at {table.ctx}", "tensors", "fallbacks")]
    for row in rows:
        if row.problem:
            cells.append((row.level, "-", "-", "-", "-", f"impossible: {row.problem}", ""))
            continue
        kinds = ", ".join(f"{n} {kind}" for kind, n in row.types.items())
        swaps = ", ".join(f"{n} {swap}" for swap, n in row.fallbacks.items())
        cost = f"{swaps}: {'+' if row.fallback_bytes >= 0 else '-'}{in_gb(abs(row.fallback_bytes))}" if swaps else ""
        name = f"{row.level}*" if row.needs_importance else row.level
        sizes = (in_gb(row.nbytes), f"{row.bpw:.2f}", in_gb(row.max_ram), in_gb(table.run_bytes[row.level]))
        cells.append((name, *sizes, kinds, cost))
    print_table(cells, right=(1, 2, 3, 4))


def _print_remarks(table: SizeTable, rows: tuple[LevelSize, ...]) -> None:
    """Print what was given in vain for levels that were named; of all levels, some take no importance."""
    if not table.all_levels:
        for line in dict.fromkeys(line for row in rows for line in row.remarks):
            print_line(line, err=True)


def _print_notes(table: SizeTable, rows: tuple[LevelSize, ...]) -> None:
    _print_remarks(table, rows)
    fit = next((row.importance_fit for row in rows if row.importance_fit is not None), None)
    if fit is not None:
        print_line(fit.entries)
    if any(row.needs_importance for row in rows):
        print_line("* needs an importance matrix (--imatrix), whose name adds about 200 bytes to the file")
    if table.vocabulary_assumed:
        print_line("There is no tokenizer beside the config: a vocabulary of the usual size is counted.")
