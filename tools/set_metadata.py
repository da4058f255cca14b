"""``gguf-set-metadata``: change, add or remove one metadata key of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..formats.errors import QuantmillError

if TYPE_CHECKING:
    from ..formats.gguf.edit import Change
    from ..formats.gguf.reader import GGUFHeader
    from ..formats.ir import Value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--type",
    "type_",
    metavar="TYPE",
    help="uint32, float32, bool, string...; string[] for an array. Adds the key if it is missing.",
)
@click.option(
    "--value-file", type=click.Path(path_type=Path), help="Take the value from a file, such as a chat template."
)
@click.option("--remove", is_flag=True, help="Remove the key.")
@click.option("--force", is_flag=True, help="Add a missing key; set a value that the checks refuse.")
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
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

    KEY is a full key or a short form (eos_token_id, context_length, chat_template). Arrays are JSON. The tensors stay
    as they are, and a crash leaves the old or the new file, whole.

    Example: gguf-set-metadata llama3.Q4_K_M.gguf eos_token_id 128009
    """
    from ..formats.gguf.edit import set_metadata
    from ..formats.gguf.keys import full_key
    from ..formats.gguf.reader import read_header

    header = read_header(file)
    arch = header.metadata.get("general.architecture")
    name = full_key(key, str(arch.data) if arch is not None else "", header.metadata)
    if remove:
        if value is not None or value_file is not None or type_ is not None:
            raise click.UsageError("--remove takes a key and no value")
        if name not in header.metadata:
            raise _missing(header, name, "")
        edit = set_metadata(file, {}, [name], force=force, dry_run=dry_run)
    else:
        new = _new_value(header, name, _text(value, value_file), type_, force)
        edit = set_metadata(file, {name: new}, force=force, dry_run=dry_run)
    if quiet:
        return
    for change in edit.changes:
        _show(header, change)
    if not edit.changed:
        click.echo("nothing to change")
    elif dry_run:
        click.echo(f"dry run: nothing written; would be written {'in place' if edit.in_place else 'as a new file'}")
    else:
        click.echo("written in place" if edit.in_place else "written as a new file, renamed over the old")


def _text(value: str | None, value_file: Path | None) -> str:
    if (value is None) == (value_file is None):
        raise click.UsageError("give a VALUE, or --value-file, or --remove")
    if value_file is None:
        assert value is not None
        return value
    return value_file.read_bytes().decode("utf-8", "surrogateescape")


def _new_value(header: GGUFHeader, name: str, text: str, type_: str | None, force: bool) -> Value:
    """The value to set, its type taken from --type, the file, or the table of well-known keys, in this order."""
    from ..formats.gguf.edit import parse_value
    from ..formats.gguf.keys import key_type, parse_type, type_name

    old = header.metadata.get(name)
    known = key_type(name)
    if type_ is not None:
        wanted = parse_type(type_)
        if known is not None and wanted != known and not force and (old is None or wanted != (old.type, old.item)):
            raise QuantmillError(
                f"llama.cpp wants {type_name(*known)} here, not {type_name(*wanted)}",
                path=header.path,
                where=name,
                hint="--force sets it all the same",
            )
    elif old is not None:
        wanted = (old.type, old.item)
    elif not force:
        how = f"--force adds it as {type_name(*known)}" if known else "--type TYPE adds it"
        raise _missing(header, name, how)
    elif known is None:
        raise QuantmillError("a key of unknown type", path=header.path, where=name, hint="say it with --type TYPE")
    else:
        wanted = known
    return parse_value(text, wanted, name)


def _missing(header: GGUFHeader, name: str, how: str) -> QuantmillError:
    from ..formats.gguf.keys import nearest_keys

    near = nearest_keys(name, list(header.metadata))
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    return QuantmillError(
        "no such key", path=header.path, where=name, hint="; ".join([*hints, *([how] if how else [])])
    )


def _show(header: GGUFHeader, change: Change) -> None:
    from ..formats.gguf.edit import show_value

    old, new = (show_value(value, header.metadata, change.key) for value in (change.old, change.new))
    click.echo(f"{change.key}: {old} -> {new}")
