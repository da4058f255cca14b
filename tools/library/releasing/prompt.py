"""How a conversation looks to a model: its chat template, filled with placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SYSTEM = {"role": "system", "content": "{system_message}"}
_USER = {"role": "user", "content": "{prompt}"}


def prompt_template(template: str | None, tokens: Mapping[str, str]) -> str | None:
    """The text of one exchange up to where the model answers; None when there is no template or it fails.

    Args:
        template: Jinja, from a stranger: it runs in a sandbox without access to anything.
        tokens: ``bos_token`` and ``eos_token``.
    """
    if not template:
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: ""
    for messages in ([_SYSTEM, _USER], [_USER]):  # many templates refuse a system message
        context: dict[str, Any] = {"messages": messages, "add_generation_prompt": True, **tokens}
        try:
            text = environment.from_string(template).render(**context)
        except Exception:  # whatever a template does wrong
            continue
        if "{prompt}" in text:
            return text
    return None
