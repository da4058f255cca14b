"""``gguf-set-metadata``: change, add or remove a metadata key of a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_line

if TYPE_CHECKING:
    from ..formats.gguf.edit import Edit


class _Command(click.Command):
    """Takes ``-1`` and ``-inf`` for a value, as they are no options; anything else is parsed as usual."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        at = next((i for i, word in enumerate(args[:end]) if _NEGATIVE.match(word)), None)
        given = None if at is None else args.pop(at)
        rest = super().parse_args(ctx, args)
        if given is not None:
            if ctx.params["value"] is not None:
                raise click.UsageError(f"Got unexpected extra argument ({given})", ctx)
            ctx.params["value"] = given
        return rest


_NEGATIVE = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("key", required=False)
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
@click.option(
    "--special-token",
    "special_tokens",
    metavar="NAME=TOKEN",
    multiple=True,
    help="Instead of KEY and VALUE: which token is bos, eos, eot, unk, pad..., by its text. Repeatable.",
)
@click.option(
    "--chat-template",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead of KEY and VALUE: set the chat template to this file's text.",
)
@click.option("--remove", is_flag=True, help="Remove the key.")
@click.option("--force", is_flag=True, help="Add a missing key; set a value that the checks refuse.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    file: Path,
    key: str | None,
    value: str | None,
    type_: str | None,
    value_file: Path | None,
    special_tokens: tuple[str, ...],
    chat_template: Path | None,
    remove: bool,
    force: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Set the metadata KEY of a GGUF FILE to VALUE.

    KEY is a full key or a short form (eos_token_id, context_length, chat_template). Write an array as JSON, and a
    token's id as a number or as the token. The tensors stay as they are, and a crash leaves the old or the new file,
    whole. A value with which llama.cpp would not load the file needs --force.

    \b
    Example: gguf-set-metadata llama3.Q4_K_M.gguf eos_token_id 128009
             gguf-set-metadata qwen2.Q4_K_M.gguf eos_token_id "<|im_end|>"
             gguf-set-metadata llama3.Q4_K_M.gguf --special-token eos="<|eot_id|>" --chat-template chat.jinja
    """
    from .api.metadata import remove_metadata, set_metadata, set_vocabulary

    if special_tokens or chat_template is not None:
        if key is not None or value_file is not None or type_ is not None or remove:
            raise click.UsageError("--special-token and --chat-template take the place of KEY and VALUE")
        edit = set_vocabulary(
            file, _named_tokens(special_tokens), chat_template=chat_template, force=force, dry_run=dry_run
        )
    elif key is None:
        raise click.UsageError("Missing argument 'KEY', or --special-token, or --chat-template.")
    elif remove:
        if value is not None or value_file is not None or type_ is not None:
            raise click.UsageError("--remove takes a key and no value")
        edit = remove_metadata(file, key, force=force, dry_run=dry_run)
    else:
        edit = set_metadata(file, key, _text(value, value_file), type=type_, force=force, dry_run=dry_run)
    if not quiet:
        _print(edit, dry_run)


def _named_tokens(given: tuple[str, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in given:
        name, equals, token = text.partition("=")
        if not (name and equals and token):
            raise click.UsageError(f"{text!r} is not NAME=TOKEN, such as eos='<|eot_id|>'")
        if name in named:
            raise click.UsageError(f"--special-token {name} is given twice")
        named[name] = token
    return named


def _text(value: str | None, value_file: Path | None) -> str:
    if value is not None and value_file is None:
        return value
    if value is None and value_file is not None:
        return value_file.read_bytes().decode("utf-8", "surrogateescape")
    raise click.UsageError("give a VALUE, or --value-file, or --remove")


def _print(edit: Edit, dry_run: bool) -> None:
    from ..formats.gguf.edit import show_value
    from ..formats.gguf.keys import type_name
    from ..formats.ir import ValueType

    for change in edit.changes:
        both = [value for value in (change.old, change.new) if value is not None]
        kinds = [type_name(value.type, value.item) for value in both]
        old, new = (show_value(value, edit.header.metadata, change.key) for value in (change.old, change.new))
        if len(set(kinds)) > 1 and both[0].type is not ValueType.ARRAY is not both[1].type:
            old, new = f"{old} ({kinds[0]})", f"{new} ({kinds[1]})"
        print_line(f"{change.key}: {old} -> {new}")
    if not edit.changed:
        print_line("nothing to change")
    elif dry_run:
        print_line(f"dry run: nothing written; would be written {'in place' if edit.in_place else 'as a new file'}")
    else:
        print_line("written in place" if edit.in_place else "written as a new file, renamed over the old")
