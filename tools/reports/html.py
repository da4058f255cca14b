"""Write HTML. Text is escaped unless it is of the class ``Html``, so that no name in a file can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ...formats.errors import visible


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


VOID = ("meta", "wbr")

Child = str | int | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """Write an element.

    Args:
        children: HTML, text, numbers, or iterables of these; None is nothing.
        attributes: a trailing underscore is dropped (``class_``), others become ``-``; None and False leave the
            attribute out, True gives it no value.

    Example:
        >>> tag("td", "a<b", class_="x")
        '<td class="x">a&lt;b</td>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Join children to HTML."""
    return Html("".join(_child(child) for child in children))


def text(raw: str, keep: str = "") -> Html:
    r"""Escape text. What a page cannot hold, or a reader cannot see, is spelt out: ``\x00``, ``\u202e``.

    Args:
        keep: characters to leave as they are, such as the line breaks of a text that is shown with them.
    """
    return Html(escape(visible(raw, keep), quote=True))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int):
        return text(str(child))
    return join(child)


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(str(value))}"'
