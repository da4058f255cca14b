"""``quantize``: quantize a GGUF file to a level, or to a size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ..formats.storage.endings import ending
from .terminal.options import (
    cluster_from,
    cluster_options,
    imatrix_options,
    print_options,
    quiet_option,
    target_options,
    write_options,
)
from .terminal.plan_options import plan_options, split_options
from .terminal.progress import ProgressDisplay

if TYPE_CHECKING:
    from ..quantize.plan import PlanOptions
    from .api.options import Kind, SizeTarget, SplitOptions, WriteOptions


def _offer_levels(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete a word in the shell: levels that begin with it, and files."""
    from ..formats.gguf.keys import FILE_TYPES

    levels = [CompletionItem(level) for level in FILE_TYPES if typed and level.startswith(typed.upper())]
    return [*levels, CompletionItem(typed, type="file")]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("arguments", metavar="[OUT] LEVEL [THREADS]", nargs=-1, shell_complete=_offer_levels)
@click.option(
    "--to",
    "kind",
    type=click.Choice(("gguf", "ggml")),
    help="What to write.  [default: ggml (version 3, for clients of mid 2023) if OUT ends in .bin, else gguf]",
)
@click.option(
    "--keep-split", is_flag=True, help="Write as many shards as MODEL has; OUT is what their names begin with."
)
@split_options
@target_options
@imatrix_options
@plan_options
@print_options
@write_options
@quiet_option
@cluster_options
def command(
    model: Path,
    arguments: tuple[str, ...],
    kind: Kind | None,
    keep_split: bool,
    split: SplitOptions,
    target: SizeTarget | None,
    imatrix: Path | None,
    refine: bool,
    refine_width: int | None,
    text: Path | None,
    n_ctx: int | None,
    chunks: int | None,
    options: PlanOptions,
    dry_run: bool,
    as_json: bool,
    write: WriteOptions,
    quiet: bool,
    cluster: str | None,
    workers: int | None,
) -> None:
    """Quantize MODEL, a GGUF file or one of its shards, to LEVEL.

    Without OUT the file is written beside MODEL, named after it: model-f16.gguf becomes model.Q4_K_M.gguf.

    With --target-size or --target-bpw in LEVEL's place, the type of each tensor is chosen so that the file loses least:
    by the error of a sample of its rows, weighted by the importance of their columns and by how much the model's
    predictions change when that tensor errs.

    \b
    Example: quantize model-f16.gguf Q4_K_M
             quantize model-f16.gguf small.gguf IQ3_XXS --imatrix model.imatrix.gguf
             quantize model-f16.gguf Q4_K_M --dry-run
             quantize model-f16-00001-of-00008.gguf Q4_K_M --keep-split
             quantize model-f16.gguf Q4_K_M --split-max-size 45G --tensor-type-file recipe.txt
             quantize model-f16.gguf --target-size 4.5GiB --imatrix model.imatrix.gguf
    \b
    Levels: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_0 Q5_1 Q4_K_M Q4_K_S Q4_0 Q4_1
            Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S IQ4_NL IQ4_XS IQ3_M IQ3_S IQ3_XS IQ3_XXS
            IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0 MXFP4_MOE Q1_0 Q2_0
            NVFP4 MXFP4 (4-bit floats; llama.cpp reads these files and has no such levels)
    """
    from ..formats.gguf.reader import read_gguf
    from ..quantize.recipes import find_recipe
    from .api.convert import convert
    from .api.hub import local_path
    from .api.running import RunOptions
    from .terminal.plans import print_conversion

    if target is None:
        if not arguments:
            raise click.UsageError("Missing argument 'LEVEL', or --target-size.")
        out, level, threads = parse_arguments(arguments)
        level = find_recipe(level).level
    else:
        level = "auto"
        out, threads = _parse_arguments_of_target(arguments)
    if threads is not None and write.threads not in (None, threads):
        raise click.UsageError(f"{threads} threads and --threads {write.threads}: give one of them")
    kind = kind or ("ggml" if out is not None and ending(out) == ".bin" else "gguf")
    if target is not None and kind == "ggml":
        raise click.UsageError("--target-size and --target-bpw are for GGUF files")
    with ProgressDisplay(quiet=quiet) as progress:
        done = convert(
            read_gguf(local_path(model, progress=progress)) if target is None else model,
            out,
            level,
            imatrix=imatrix,
            refine=refine,
            refine_width=refine_width,
            text=text,
            run=RunOptions(n_ctx, chunks),
            target=target,
            options=options,
            kind=kind,
            split=replace(split, keep=keep_split),
            write=replace(write, threads=write.threads or threads),
            cluster=cluster_from(cluster, workers),
            dry_run=dry_run,
            progress=progress,
        )
    print_conversion(done, as_json=as_json, quiet=quiet)


def parse_arguments(arguments: tuple[str, ...]) -> tuple[Path | None, str, int | None]:
    """Parse ``[OUT] LEVEL [THREADS]``. As for llama-quantize, a first word that is a level is not the output."""
    words = list(arguments)
    out = None
    if len(words) > 1 and not _is_level(words[0]) and not (len(words) == 2 and _is_threads(words)):
        out = Path(words.pop(0))
    level = words.pop(0)
    if len(words) > 1 or (words and not words[0].isdecimal()):
        raise click.UsageError(f"unexpected {words[-1]!r}; expected: MODEL [OUT] LEVEL [THREADS]")
    threads = int(words[0]) if words else None
    if threads == 0:
        raise click.UsageError("THREADS must be at least 1")
    return out, level, threads


def _parse_arguments_of_target(arguments: tuple[str, ...]) -> tuple[Path | None, int | None]:
    """Parse ``[OUT] [THREADS]``."""
    words = list(arguments)
    out = Path(words.pop(0)) if words and not words[0].isdecimal() else None
    threads = None
    if words and words[0].isdecimal() and int(words[0]):
        threads = int(words.pop(0))
    if words:
        raise click.UsageError(f"unexpected {words[-1]!r}; a target takes the level's place: MODEL [OUT] [THREADS]")
    if out is not None and _is_level(str(out)):
        raise click.UsageError(f"{out} is a level; a target takes its place")
    return out, threads


def _is_threads(words: list[str]) -> bool:
    """Whether two words look like a level, perhaps misspelt, and a number of threads."""
    return words[1].isdecimal() and ending(words[0]) != ".gguf"


def _is_level(word: str) -> bool:
    from ..formats.errors import PlanError
    from ..quantize.recipes import find_recipe

    try:
        find_recipe(word)
    except PlanError:
        return False
    return True
