"""``quantize``: a GGUF file at another level."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .terminal.options import budget_options, cluster_options, plan_options, write_options

# How files say that they are float: dropped before the level is added.
_FLOAT_ENDING = re.compile(r"[-._](?:bf16|fp?16|fp?32)\Z", re.IGNORECASE)


def _offer_levels(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """For a shell's completion: the levels that begin so, and files."""
    from ..formats.gguf.keys import FILE_TYPES

    levels = [CompletionItem(level) for level in FILE_TYPES if typed and level.startswith(typed.upper())]
    return [*levels, CompletionItem(typed, type="file")]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("arguments", metavar="[OUT] LEVEL [THREADS]", nargs=-1, shell_complete=_offer_levels)
@click.option(
    "--to",
    "container",
    type=click.Choice(("gguf", "ggml")),
    help="What OUT becomes: ggml (version 3, for clients of mid 2023) if its name ends in .bin, else gguf.",
)
@click.option("--keep-split", is_flag=True, help="Write shards as MODEL's; OUT is what their names begin with.")
@budget_options
@plan_options
@write_options
@cluster_options
def command(model: Path, arguments: tuple[str, ...], container: str | None, keep_split: bool, **options: Any) -> None:
    """Quantize MODEL, a GGUF file or one of its shards, to LEVEL.

    Without OUT the file is written beside MODEL, named after it: model-f16.gguf becomes model.Q4_K_M.gguf.

    With --target-size or --target-bpw in LEVEL's place each tensor gets a type of its own: the choice that costs least,
    by the error of a sample of its rows, weighted by the importance of their columns and by how much the model's
    predictions move when that tensor errs.

    \b
    Example: quantize model-f16.gguf Q4_K_M
             quantize model-f16.gguf small.gguf IQ3_XXS --imatrix model.imatrix.gguf
             quantize model-f16.gguf Q4_K_M --dry-run
             quantize model-f16-00001-of-00008.gguf Q4_K_M --keep-split
             quantize model-f16.gguf --target-size 4.5GiB --imatrix model.imatrix.gguf
    \b
    Levels: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_0 Q5_1 Q4_K_M Q4_K_S Q4_0 Q4_1
            Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S IQ4_NL IQ4_XS IQ3_M IQ3_S IQ3_XS IQ3_XXS
            IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0 MXFP4_MOE Q1_0 Q2_0
    """
    from ..formats.gguf.reader import read_gguf
    from ..quantize.recipes import find_recipe
    from .library.budgeted import has_target, quantize_to_target
    from .library.planned import carry_out, plan_from, print_plan, recipe_set_for, tell_client

    if has_target(options):
        out, options["threads"] = _without_level(arguments, options["threads"])
        if container == "ggml" or (out is not None and out.suffix == ".bin"):
            raise click.UsageError("--target-size and --target-bpw are for GGUF files")
        quantize_to_target(model, out, options, keep_split)
        return
    if not arguments:
        raise click.UsageError("Missing argument 'LEVEL', or --target-size.")
    out, level, threads = parse_arguments(arguments)
    options["threads"] = options["threads"] or threads
    container = container or ("ggml" if out is not None and out.suffix == ".bin" else "gguf")
    if keep_split and container == "ggml":
        raise click.UsageError("--keep-split: a GGML file has no shards")
    recipe = find_recipe(level, recipe_set_for(container, options))
    path = out or output_name(model, recipe.level, container)
    plan, importance = plan_from(read_gguf(model), recipe.level, options, container=container)
    if options["dry_run"]:
        print_plan(plan, bool(options["as_json"]))
    else:
        carry_out(plan, path, importance, options, keep_split)
        if container == "ggml" and not options["quiet"]:
            tell_client(plan.metadata, path)


def parse_arguments(arguments: tuple[str, ...]) -> tuple[Path | None, str, int | None]:
    """``[OUT] LEVEL [THREADS]``: as llama-quantize has it, a first word that is a level is no output."""
    words = list(arguments)
    out = None
    if len(words) > 1 and not _is_level(words[0]) and not (len(words) == 2 and _is_threads(words)):
        out = Path(words.pop(0))
    level = words.pop(0)
    if len(words) > 1 or (words and not words[0].isdecimal()):
        raise click.UsageError(f"unexpected {words[-1]!r}; wanted: MODEL [OUT] LEVEL [THREADS]")
    threads = int(words[0]) if words else None
    if threads == 0:
        raise click.UsageError("0 threads do no work")
    return out, level, threads


def _without_level(arguments: tuple[str, ...], threads: Any) -> tuple[Path | None, Any]:
    """``[OUT] [THREADS]``"""
    words = list(arguments)
    out = Path(words.pop(0)) if words and not words[0].isdecimal() else None
    if words and words[0].isdecimal() and int(words[0]):
        threads = threads or int(words.pop(0))
    if words:
        raise click.UsageError(f"unexpected {words[-1]!r}; a target takes the level's place: MODEL [OUT] [THREADS]")
    if out is not None and _is_level(str(out)):
        raise click.UsageError(f"{out} is a level; a target takes its place")
    return out, threads


def _is_threads(words: list[str]) -> bool:
    """Whether two words look like a (misspelt) level and a number of threads."""
    return words[1].isdecimal() and not words[0].lower().endswith(".gguf")


def _is_level(word: str) -> bool:
    from ..formats.errors import PlanError
    from ..quantize.recipes import find_recipe

    try:
        find_recipe(word)
    except PlanError:
        return False
    return True


def output_name(model: Path, level: str, container: str = "gguf") -> Path:
    """``model-f16.gguf`` -> ``model.Q4_K_M.gguf`` beside it, or ``model.ggmlv3.q4_K_M.bin`` as was the custom."""
    from ..formats.gguf.shards import shard_prefix

    stem = _FLOAT_ENDING.sub("", shard_prefix(model))
    ending = f"ggmlv3.{level[0].lower()}{level[1:]}.bin" if container == "ggml" else f"{level}.gguf"
    return model.with_name(f"{stem}.{ending}")
