"""As much of Go's text/template as our Modelfiles use, to check them where Go is not installed.

Follows https://pkg.go.dev/text/template: ``range``, ``if`` with ``else if``, variables, fields, ``eq``, ``ne``,
``and``, texts, and dashes that remove spaces. What it does not know it refuses. The goldens of Go check it, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.S)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()]|[^\s()]+)')


@dataclass
class Node:
    """A text, an action's words, or a block with its branches of words and nodes."""

    kind: str
    words: list[str] = field(default_factory=list)
    branches: list[tuple[list[str], list[Node]]] = field(default_factory=list)


def render(template: str, messages: list[dict[str, str]], date: str) -> str:
    """What Ollama's ``Execute`` gives for messages of alternating roles."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    items = [{"Role": m["role"], "Content": m["content"]} for m in messages]
    nodes, rest = _parse(iter(_tokens(template)))
    assert rest is None, f"{rest} without a beginning"
    root = {"System": system, "Messages": items}
    return "".join(_Run({"$": root, "currentDate": date}).nodes(nodes, root))


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    last, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[last : match.start()]
        text = text.lstrip(" \t\r\n") if trim else text
        yield "text", text.rstrip(" \t\r\n") if match[1] else text
        yield "action", match[2].strip()
        last, trim = match.end(), bool(match[3])
    yield "text", template[last:].lstrip(" \t\r\n") if trim else template[last:]


def _parse(tokens: Iterator[tuple[str, str]]) -> tuple[list[Node], list[str] | None]:
    """Nodes up to an ``end`` or ``else``, and its words."""
    nodes: list[Node] = []
    for kind, text in tokens:
        words = [text] if kind == "text" else _WORD.findall(text)
        if kind == "text":
            nodes.append(Node("text", words))
        elif words[0] in ("end", "else"):
            return nodes, words
        elif words[0] in ("range", "if"):
            block = Node(words[0])
            condition = words[1:]
            while True:
                inside, stop = _parse(tokens)
                assert stop is not None, "no end"
                block.branches.append((condition, inside))
                if stop == ["end"]:
                    break
                condition = stop[2:] if stop[1:2] == ["if"] else []
            nodes.append(block)
        else:
            nodes.append(Node("action", words))
    return nodes, None


class _Run:
    def __init__(self, variables: dict[str, Any]) -> None:
        self.variables = variables

    def nodes(self, nodes: list[Node], dot: Mapping[str, Any]) -> Iterator[str]:
        for node in nodes:
            if node.kind == "text":
                yield node.words[0]
            elif node.kind == "action":
                yield self.action(node.words, dot)
            elif node.kind == "if":
                for condition, inside in node.branches:
                    if not condition or self.value(condition, dot):
                        yield from self.nodes(inside, dot)
                        break
            else:
                yield from self.range(node, dot)

    def range(self, node: Node, dot: Mapping[str, Any]) -> Iterator[str]:
        ((words, inside),) = node.branches
        names: list[str] = []
        if ":=" in words:
            at = words.index(":=")
            names, words = [word.rstrip(",") for word in words[:at]], words[at + 1 :]
        for number, item in enumerate(self.value(words, dot)):
            self.variables |= dict(zip(names, (number, item), strict=False))
            yield from self.nodes(inside, item)

    def action(self, words: list[str], dot: Mapping[str, Any]) -> str:
        if len(words) > 2 and words[1] in (":=", "="):
            assert (words[0] in self.variables) == (words[1] == "="), words
            self.variables[words[0]] = self.value(words[2:], dot)
            return ""
        return str(self.value(words, dot))

    def value(self, words: list[str], dot: Mapping[str, Any]) -> Any:
        values, rest = [], list(words)
        while rest:
            word = rest.pop(0)
            if word == "(":
                depth, inner = 1, []
                while depth:
                    one = rest.pop(0)
                    depth += (one == "(") - (one == ")")
                    inner.append(one)
                values.append(self.value(inner[:-1], dot))
            else:
                values.append(word if word in ("eq", "ne", "and") else self.operand(word, dot))
        if values[0] in ("eq", "ne", "and") and len(values) == 3:
            function, one, two = values
            return (one and two) if function == "and" else (one == two) == (function == "eq")
        assert len(values) == 1, words
        return values[0]

    def operand(self, word: str, dot: Mapping[str, Any]) -> Any:
        if word.startswith('"'):
            return word[1:-1]
        if word in ("true", "false"):
            return word == "true"
        if word.isdigit():
            return int(word)
        if word.startswith("."):
            return dot[word[1:]]
        name, _, field_name = word.partition(".")
        value = self.variables[name]
        return value[field_name] if field_name else value
