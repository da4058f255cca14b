"""``quantmill plan``: what a model will weigh at every level, before anything is written, or even downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import PlanError
from .terminal.options import budget_options, recipe_set_option
from .terminal.units import Size, in_gb

if TYPE_CHECKING:
    from ..formats.ir import Model
    from ..quantize.estimate.levels import LevelSize
    from ..quantize.plan import MakeLayout

FORMATS = ("gguf", "ggml", "gptq")
# Never the level to take: others do better at the same size, or are made for models trained for them.
_NOT_ADVISED = frozenset({"F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0"})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("levels", metavar="[LEVEL]...", nargs=-1)
@click.option(
    "--format",
    "container",
    type=click.Choice(FORMATS),
    default="gguf",
    show_default=True,
    help="What is to be written.",
)
@recipe_set_option
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plan with this importance matrix, .gguf or .dat.",
)
@click.option(
    "--ctx", type=click.IntRange(min=1), default=4096, show_default=True, help="Context, in tokens, to run at."
)
@click.option("--fits", type=Size(), metavar="SIZE", help="Name the best level that runs in so much memory.")
@budget_options
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
@click.option("--quiet", is_flag=True, help="No heading and no notes.")
def command(model: Path, levels: tuple[str, ...], container: str, **options: Any) -> None:
    """Show the size of MODEL's file at each LEVEL (all, if none is named).

    MODEL is a Hugging Face folder, a config.json alone, a GGUF or a GGML file. No weight is read. Sizes are exact for a
    file that is then written by convert or quantize. "Max RAM" is the size and 2.5 GB, as published cards have it; the
    column beside it counts weights, key/value cache and buffers at --ctx.

    \b
    Example: quantmill plan Meta-Llama-3-8B-Instruct
             quantmill plan config.json Q4_K_M Q5_K_M --json
             quantmill plan model-f16.gguf --fits 8GiB --ctx 8192
             quantmill plan Llama-2-13b-hf --format gptq
             quantmill plan model-f16.gguf --target-bpw 4.0 --imatrix model.imatrix.gguf
    """
    from .library.budgeted import has_target, plan_target

    if has_target(options):
        if levels or container != "gguf" or options["fits"] is not None:
            raise click.UsageError("--target-size and --target-bpw choose the types of a GGUF file, whatever the level")
        plan_target(model, options)
        return
    source = read_any(model)
    assumed = _assumes_vocabulary(model, source)
    if assumed:
        from ..formats.hf.shapes import with_vocabulary

        source = with_vocabulary(source)
    recipe_set = str(options["recipe_set"] or ("ggml-v3" if container == "ggml" else "current"))
    if container == "gptq":
        recipe_set = ""
    rows = find_sizes(source, levels, container, recipe_set, options["imatrix"])
    memory = {row.level: _memory(source, row, options["ctx"]) for row in rows}
    fits = None if options["fits"] is None else best_fit(rows, memory, options["fits"], bool(levels), source)
    if options["as_json"]:
        click.echo(json.dumps(_as_json(model, source, container, recipe_set, options, rows, memory, fits, assumed)))
        return
    if not options["quiet"]:
        _print_heading(model, source, container, recipe_set)
    if fits is None:
        _print_table(rows, memory, options["ctx"])
    else:
        _print_table([fits], memory, options["ctx"])
    if not options["quiet"]:
        _print_notes(rows if fits is None else [fits], assumed)


def read_any(path: Path) -> Model:
    """A model of any kind for planning. Weights need not be there."""
    from .library.models import read_model

    bare = path.suffix == ".json" and path.is_file()
    if bare or (path.is_dir() and (path / "config.json").is_file() and not _has_weights(path)):
        from ..formats.hf.shapes import read_shapes

        return read_shapes(path if bare else path / "config.json")
    return read_model(path)


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in ("*.safetensors*", "pytorch_model*"))


def _assumes_vocabulary(path: Path, model: Model) -> bool:
    """A config.json by itself: its checkpoint has a tokenizer, which is not here to be counted."""
    from ..formats.hf.shapes import lacks_vocabulary

    return path.suffix == ".json" and lacks_vocabulary(model)


def find_sizes(
    model: Model, levels: Sequence[str], container: str, recipe_set: str, imatrix: Path | None
) -> list[LevelSize]:
    """The size at each level, by container; see ``size_levels`` and ``size_variants``."""
    from ..quantize.estimate.levels import size_levels

    if container == "gptq":
        from ..quantize.estimate.packed import VARIANTS, parse_variant, size_variants

        return size_variants(model, [parse_variant(level) for level in levels] or VARIANTS)
    from ..formats.gguf.writer import layout as gguf_layout
    from ..quantize.plan import PlanOptions

    importance, origin = None, None
    make_layout: MakeLayout | None = None
    if imatrix is not None:
        from ..formats.imatrix_file import read_imatrix

        read = read_imatrix(imatrix)
        importance, origin = read.vectors(), read.provenance(imatrix)
    if container == "ggml":
        from ..formats.ggml.writer import layout, untied

        model, make_layout = untied(model), layout
    options = PlanOptions(
        recipe_set=recipe_set, importance=importance, extra_metadata=origin or {}, layout=make_layout or gguf_layout
    )
    return size_levels(model, levels, options)


def _memory(model: Model, row: LevelSize, ctx: int) -> int:
    from ..quantize.estimate.memory import run_memory

    return run_memory(model, row.nbytes, ctx)


def best_fit(
    rows: Sequence[LevelSize], memory: dict[str, int], limit: int, named: bool, model: Model | None = None
) -> LevelSize:
    """The largest of the levels worth taking (of those named, any) that runs in ``limit`` bytes.

    Raises:
        PlanError: none does.
    """
    possible = [row for row in rows if not row.problem and (named or row.level not in _NOT_ADVISED)]
    own = {tensor.qtype.name for tensor in model.tensors if len(tensor.shape) > 1} if model else set()
    fitting = [row for row in possible if memory[row.level] <= limit]
    if fitting:
        return max(fitting, key=lambda row: (row.nbytes, row.level in own))
    if not possible:
        raise PlanError("none of these levels can be made", where="--fits")
    least = min(possible, key=lambda row: row.nbytes)
    problem = f"{in_gb(limit)} are too little: the smallest level, {least.level}, takes {in_gb(memory[least.level])}"
    raise PlanError(problem, where="--fits", hint="a smaller --ctx, or a smaller model")


def _as_json(
    path: Path, model: Model, container: str, recipe_set: str, options: dict[str, Any], rows: Sequence[LevelSize],
    memory: dict[str, int], fits: LevelSize | None, assumed: bool,
) -> dict[str, Any]:  # fmt: skip
    levels = [
        {
            "level": row.level,
            "bytes": row.nbytes,
            "bpw": round(row.bpw, 4),
            "max_ram_bytes": row.max_ram,
            "run_bytes": memory[row.level],
            "types": row.types,
            "fallbacks": sum(row.fallbacks.values()),
            "fallback_types": row.fallbacks,
            "fallback_bytes": row.fallback_bytes,
            "needs_importance": row.needs_importance,
        }
        for row in rows
        if not row.problem
    ]
    facts: dict[str, Any] = {
        "model": str(path),
        "architecture": model.arch,
        "format": container,
        "recipe_set": recipe_set or None,
    }
    facts |= {"weights": sum(t.n_weights for t in model.tensors), "ctx": options["ctx"], "levels": levels}
    facts["impossible"] = {row.level: row.problem for row in rows if row.problem}
    facts["vocabulary_assumed"] = assumed
    if fits is not None:
        facts["fits"] = {"limit_bytes": options["fits"], "level": fits.level}
    return facts


def _print_heading(path: Path, model: Model, container: str, recipe_set: str) -> None:
    n = sum(tensor.n_weights for tensor in model.tensors)
    count = f"{n / 1e9:.2f} billion" if n >= 1e9 else f"{n / 1e6:.2f} million"
    click.echo(
        f"{path}: {model.arch}, {count} weights; as {container}{f', recipe set {recipe_set}' if recipe_set else ''}"
    )


def _print_table(rows: Sequence[LevelSize], memory: dict[str, int], ctx: int) -> None:
    table = [("level", "size", "bpw", "max RAM", f"RAM at {ctx}", "tensors", "fallbacks")]
    for row in rows:
        if row.problem:
            table.append((row.level, "-", "-", "-", "-", f"impossible: {row.problem}", ""))
            continue
        kinds = ", ".join(f"{n} {kind}" for kind, n in row.types.items())
        swaps = ", ".join(f"{n} {swap}" for swap, n in row.fallbacks.items())
        cost = f"{swaps}: {'+' if row.fallback_bytes >= 0 else '-'}{in_gb(abs(row.fallback_bytes))}" if swaps else ""
        name = f"{row.level}*" if row.needs_importance else row.level
        sizes = (in_gb(row.nbytes), f"{row.bpw:.2f}", in_gb(row.max_ram), in_gb(memory[row.level]))
        table.append((name, *sizes, kinds, cost))
    print_columns(table, right=(1, 2, 3, 4))


def print_columns(table: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows of cells, aligned; the columns numbered in ``right`` to the right."""
    widths = [max(len(row[i]) for row in table if len(row) > i and len(row[i]) < 60) for i in range(len(table[0]))]
    for row in table:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _print_notes(rows: Sequence[LevelSize], assumed: bool) -> None:
    if any(row.needs_importance for row in rows):
        click.echo("* needs an importance matrix (--imatrix), whose name adds some 200 bytes to the file")
    if assumed:
        click.echo("There is no tokenizer beside the config: a vocabulary of the usual size is counted.")
