"""``quantmill merge``: shards as one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal.options import restart_option, speaker


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shard", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--keep-split-keys", "keep_keys", is_flag=True, help="Leave split.* in it with a count of 0, as llama-gguf-split."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@restart_option
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(shard: Path, out: Path, keep_keys: bool, force: bool, restart: bool, quiet: bool) -> None:
    """Merge the shards that SHARD is one of into OUT: byte for byte the file that was split.

    Example: quantmill merge llama3.Q8_0-00001-of-00004.gguf llama3.Q8_0.gguf
    """
    from ..formats.gguf.reader import read_headers
    from ..formats.gguf.split import merge
    from ..formats.storage.output import human_bytes
    from .library.planned import progress_bar

    with progress_bar(sum(header.file_size for header in read_headers(shard)), out.name, quiet) as progress:
        model = merge(
            shard, out, keep_keys=keep_keys, progress=progress, force=force, restart=restart, say=speaker(quiet)
        )
    if not quiet:
        size = human_bytes(out.stat().st_size)
        click.echo(f"{out}: {len(model.tensors)} tensors of {len(model.shards)} shards, {size}")
