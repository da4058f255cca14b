"""Put names into Markdown, and into the commands that it shows, so that they are names and nothing else there."""

from __future__ import annotations

import json
import os
import re
import shlex
from urllib.parse import quote

from ....formats.errors import visible

# What leads to a file beside the text: no scheme, no place in it, no path from a root.
_RELATIVE = re.compile(r"""(\]\(|\b(?:src|href)=["'])(?!\w+:|[#/])([^\s)"']+)""")
_MARKUP = re.compile(r"[\\`*\[\]<>|&]")


def plain(text: str) -> str:
    r"""Text that stands as it is in a paragraph or a cell: no link, no HTML, no end of a line.

    Example:
        >>> print(plain("a|b <img>"))
        a\|b \<img\>
    """
    return _MARKUP.sub(r"\\\g<0>", visible(text))


def code(text: str) -> str:
    """A code span, within more backticks than the text has in a row.

    Example:
        >>> code("a`b")
        '``a`b``'
    """
    text = visible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def link(name: str) -> str:
    """A link to a file beside this one.

    Example:
        >>> link("my model.gguf")
        '[my model.gguf](./my%20model.gguf)'
    """
    return f"[{plain(name)}](./{quote(os.fsencode(name))})"


def with_base(text: str, base: str) -> str:
    """Markdown and the HTML in it, whose links to files beside it lead to those at another place.

    Args:
        text: the Markdown.
        base: the address of the folder, with a slash at its end.

    Example:
        >>> with_base("![a](img/a.png) [b](#top) [c](https://x.org) <img src='d.png'>", "https://hub/m/")
        "![a](https://hub/m/img/a.png) [b](#top) [c](https://x.org) <img src='https://hub/m/d.png'>"
    """
    return _RELATIVE.sub(lambda match: f"{match[1]}{base}{match[2].removeprefix('./')}", text)


def fenced(text: str) -> str:
    """A block of code, within a fence that the text cannot end. Line breaks and tabs stay."""
    text = visible(text, keep="\n\t")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}"


def word(text: str) -> str:
    """A word of a shell's command.

    Example:
        >>> word("a.gguf"), word("$(rm -r).gguf")
        ('a.gguf', "'$(rm -r).gguf'")
    """
    return shlex.quote(visible(text))


def literal(text: str) -> str:
    """A string in Python's source."""
    return json.dumps(visible(text), ensure_ascii=False)
