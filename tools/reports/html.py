"""HTML from Python: text is escaped unless it is HTML already, so that no name in a file can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML; everything else is escaped when it becomes part of it."""

    __slots__ = ()


VOID = ("meta", "wbr")

Child = str | int | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """``tag("td", "a<b", class_="x")`` is ``<td class="x">a&lt;b</td>``.

    Args:
        children: HTML, text, numbers, or iterables of these; None is nothing.
        attributes: ``class_`` and ``for_`` lose their underscore, others have theirs as ``-``; None and False leave the
            attribute out, True gives it no value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """The children one after the other."""
    return Html("".join(_child(child) for child in children))


def text(raw: str) -> Html:
    """Text as HTML. What has no place in a page (control characters, halves of surrogate pairs) is spelt out."""
    plain = raw.encode("utf-8", "backslashreplace").decode("utf-8")
    return Html(escape("".join(c if c.isprintable() or c in "\n\t" else _spelt(c) for c in plain), quote=True))


def _spelt(character: str) -> str:
    """``\\x00``, ``\\u202e``: also of marks that would turn the direction of what follows. Spaces stay."""
    return character if character.isspace() and ord(character) >= 0x80 else ascii(character)[1:-1]


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
