"""``quantmill split``: split a GGUF file into shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.options import restart_option
from .terminal.progress import ProgressDisplay
from .terminal.table import print_table
from .terminal.units import Size

if TYPE_CHECKING:
    from ..formats.gguf.split import SplitPlan


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prefix")
@click.option(
    "--max-size",
    type=Size(),
    metavar="SIZE",
    help="The most bytes of tensors in a shard: 2G, 500M (decimal, as llama-gguf-split), 1.5GiB.",
)
@click.option("--max-tensors", type=click.IntRange(min=1), help="The most tensors in a shard.  [default: 128]")
@click.option("--no-tensor-first-split", "empty_first", is_flag=True, help="Let the first shard hold metadata only.")
@click.option("--gguf-version", "version", type=click.IntRange(2, 3), help="Version of the shards.  [default: MODEL's]")
@click.option("--dry-run", is_flag=True, help="Print the shards, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the shards as JSON.")
@click.option("--force", is_flag=True, help="Replace shards that exist.")
@restart_option
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    model: Path,
    prefix: str,
    max_size: int | None,
    max_tensors: int | None,
    empty_first: bool,
    version: int | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
    restart: bool,
    quiet: bool,
) -> None:
    """Split MODEL, a GGUF file, into PREFIX-00001-of-0000N.gguf and so on, as llama.cpp reads them.

    The shards are those of llama-gguf-split. All of them are written, or none. `quantmill merge` gives MODEL's bytes
    back.

    \b
    Example: quantmill split llama3.Q8_0.gguf llama3.Q8_0 --max-size 2G
             quantmill split llama3.Q8_0.gguf llama3.Q8_0 --max-tensors 100 --dry-run
    """
    from .api.shards import split

    if max_size is not None and max_tensors is not None:
        raise click.UsageError("give --max-size or --max-tensors, not both")
    if max_size == 0:
        raise click.UsageError("--max-size 0 holds no tensor")
    with ProgressDisplay(quiet=quiet) as progress:
        plan = split(
            model,
            prefix,
            max_size=max_size,
            max_tensors=max_tensors,
            empty_first=empty_first,
            version=version,
            dry_run=dry_run,
            force=force,
            restart=restart,
            progress=progress,
        )
    if as_json:
        print_json({"source": str(model), "written": not dry_run, "shards": _as_json(plan)})
    elif not quiet:
        _print(plan)


def _as_json(plan: SplitPlan) -> list[dict[str, object]]:
    return [
        {"path": str(shard.path), "tensors": len(shard.tensors), "bytes": shard.layout.size} for shard in plan.shards
    ]


def _print(plan: SplitPlan) -> None:
    from ..formats.storage.output import human_bytes

    rows = [(str(s.path), f"{len(s.tensors)} tensors", human_bytes(s.layout.size)) for s in plan.shards]
    print_table(rows, right=(1, 2))
    if not plan.exact:
        print_line("the first shard also stores the file's own padding and keys, for merge")
