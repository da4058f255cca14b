"""A form of conversations in Go's template language, as Ollama takes it (text/template with ``.Messages``)."""

from __future__ import annotations

from collections.abc import Sequence

from .chat_form import TODAY, ChatForm

_TRIPLE = '"""'


def go_template(form: ChatForm) -> str | None:
    """Write a form as a template for Ollama; None where a Modelfile cannot hold its texts.

    Each action stands where its text does: Go keeps every space outside of them. Only between two actions there is a
    line's end, which the second one's dash removes.

    Example:
        >>> form = ChatForm("Q: ", "", "\\nQ: ", "Q: ", "\\n", "A: ", "\\n", "A:", has_system=False)
        >>> print(go_template(form))
        {{- range .Messages }}
        {{- if eq .Role "user" }}Q: {{ .Content }}
        {{ else if eq .Role "assistant" }}A: {{ .Content }}
        {{ end }}
        {{- end }}A:
    """
    body = _in_order(form) if form.in_place else _system_first(form)
    text = _layout([*body, form.generation])
    return text if _fits(text) else None


class _Action(str):
    """What stands in braces."""


_END, _CONTENT = _Action("end"), _Action(".Content")


def _in_order(form: ChatForm) -> list[str]:
    default = form.first.removesuffix(form.user)
    head: list[str] = [_Action("range .Messages")]
    if default:
        head = [_Action("range $i, $_ := .Messages"), _Action('if and (eq $i 0) (ne .Role "system")'), default, _END]
    return [
        *head,
        _Action('if eq .Role "system"'), form.system, _CONTENT, form.after_system.removesuffix(form.user),
        _Action('else if eq .Role "user"'), form.user, _CONTENT, form.after_user,
        _Action('else if eq .Role "assistant"'), form.assistant, _CONTENT, form.after_assistant,
        _END, _END,
    ]  # fmt: skip


def _system_first(form: ChatForm) -> list[str]:
    first: list[str] = [form.first]
    if form.has_system:
        first = [
            _Action("if $.System"), form.system, _Action("$.System"), form.after_system,
            _Action("else"), form.first, _END,
        ]  # fmt: skip
    before, head = first, [_Action("range .Messages")]
    if form.has_system or form.first != form.user:
        head = [_Action("$first := true"), *head]
        before = [
            _Action("if $first"), *first, _Action("$first = false"), _Action("else"), form.user, _END,
        ]  # fmt: skip
    return [
        *head,
        _Action('if eq .Role "user"'), *before, _CONTENT, form.after_user,
        _Action('else if eq .Role "assistant"'), form.assistant, _CONTENT, form.after_assistant,
        _END, _END,
    ]  # fmt: skip


def _layout(parts: Sequence[str]) -> str:
    text, after_action = "", True
    for part in parts:
        if isinstance(part, _Action):
            start = "" if not text else "\n"
            text += f"{start}{{{{- {part} }}}}" if after_action else f"{{{{ {part} }}}}"
            after_action = True
        elif part:
            text += part.replace("{{", '{{ "{{" }}').replace(TODAY, "{{ currentDate }}")
            after_action = False
    return text


def _fits(text: str) -> bool:
    """Whether a Modelfile can hold a text in three quotation marks: its reader drops what is not printed."""
    return _TRIPLE not in text and not text.endswith('"') and all(c.isprintable() or c in "\n\t" for c in text)
