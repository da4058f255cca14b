"""``gguf-set-metadata``: change, add or remove a metadata key of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_line

if TYPE_CHECKING:
    from ..formats.gguf.edit import Edit


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--type",
    "type_",
    metavar="TYPE",
    help="The value's type: uint32, float32, bool, string...; string[] for an array. Adds the key if it is missing.",
)
@click.option(
    "--value-file", type=click.Path(path_type=Path), help="Take the value from a file, such as a chat template."
)
@click.option("--remove", is_flag=True, help="Remove the key.")
@click.option("--force", is_flag=True, help="Add a missing key; set a value that the checks refuse.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    file: Path,
    key: str,
    value: str | None,
    type_: str | None,
    value_file: Path | None,
    remove: bool,
    force: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Set the metadata KEY of a GGUF FILE to VALUE.

    KEY is a full key or a short form (eos_token_id, context_length, chat_template). Write an array as JSON. The tensors
    stay as they are, and a crash leaves the old or the new file, whole.

    Example: gguf-set-metadata llama3.Q4_K_M.gguf eos_token_id 128009
    """
    from .api.metadata import remove_metadata, set_metadata

    if remove:
        if value is not None or value_file is not None or type_ is not None:
            raise click.UsageError("--remove takes a key and no value")
        edit = remove_metadata(file, key, force=force, dry_run=dry_run)
    else:
        edit = set_metadata(file, key, _text(value, value_file), type=type_, force=force, dry_run=dry_run)
    if not quiet:
        _print(edit, dry_run)


def _text(value: str | None, value_file: Path | None) -> str:
    if value is not None and value_file is None:
        return value
    if value is None and value_file is not None:
        return value_file.read_bytes().decode("utf-8", "surrogateescape")
    raise click.UsageError("give a VALUE, or --value-file, or --remove")


def _print(edit: Edit, dry_run: bool) -> None:
    from ..formats.gguf.edit import show_value

    for change in edit.changes:
        old, new = (show_value(value, edit.header.metadata, change.key) for value in (change.old, change.new))
        print_line(f"{change.key}: {old} -> {new}")
    if not edit.changed:
        print_line("nothing to change")
    elif dry_run:
        print_line(f"dry run: nothing written; would be written {'in place' if edit.in_place else 'as a new file'}")
    else:
        print_line("written in place" if edit.in_place else "written as a new file, renamed over the old")
