"""``quantmill merge``: merge shards into one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal.lines import print_line
from .terminal.options import restart_option
from .terminal.progress import ProgressDisplay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shard", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--keep-split-keys", is_flag=True, help="Leave split.* in OUT, its count 0, as llama-gguf-split does.")
@click.option(
    "--delete-shards", is_flag=True, help="Delete the shards once OUT is whole and has been compared with them."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@restart_option
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    shard: Path, out: Path, keep_split_keys: bool, delete_shards: bool, force: bool, restart: bool, quiet: bool
) -> None:
    """Merge the shards that SHARD is one of into OUT, the bytes of the file that was split.

    Example: quantmill merge llama3.Q8_0-00001-of-00004.gguf llama3.Q8_0.gguf
    """
    from ..formats.storage.output import human_bytes
    from .api.shards import merge

    with ProgressDisplay(quiet=quiet) as progress:
        model = merge(
            shard,
            out,
            keep_split_keys=keep_split_keys,
            delete_shards=delete_shards,
            force=force,
            restart=restart,
            progress=progress,
        )
    if not quiet:
        size = human_bytes(out.stat().st_size)
        print_line(f"{out}: {len(model.tensors)} tensors of {len(model.shards)} shards, {size}")
        if delete_shards:
            print_line(f"{len(model.shards)} shards compared and deleted")
