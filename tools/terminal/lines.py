"""The one way to the terminal: lines of text, and JSON.

Names in files are chosen by strangers: a tensor's name may clear the screen, or look like a line of this program.
Whatever is printed here is made visible first, so that no command can forget to.
"""

from __future__ import annotations

import json
import sys
from typing import TextIO

import click

from ...formats.errors import visible
from ..api.json_values import json_plain


def print_line(text: object = "", *, err: bool = False) -> None:
    """Print one line, whatever the text holds: line breaks and other control characters are spelt out.

    Characters that the terminal's encoding lacks are spelt out, too.

    Args:
        text: without the line's end.
        err: print on stderr, not on stdout.

    Example:
        >>> print_line("blk.0\\x1b[2J.weight")
        blk.0\\x1b[2J.weight
    """
    click.echo(shown(str(text), sys.stderr if err else sys.stdout), err=err)


def shown(text: str, stream: TextIO) -> str:
    """One line as it can be written to a stream: control characters, and what its encoding lacks, are spelt out."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print JSON on stdout, in ASCII: names keep every character, and each stands as an escape that JSON knows.

    Args:
        value: plain data. NaN and infinities, which JSON lacks, become strings.
        indent: spaces of each level; None for one line.

    Example:
        >>> print_json({"name": "a\\x1b", "error": float("nan")})
        {"name": "a\\u001b", "error": "nan"}
    """
    click.echo(json.dumps(json_plain(value), indent=indent, allow_nan=False))
