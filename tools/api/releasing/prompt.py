"""Show how a model expects a conversation: its chat template, filled with placeholders."""

from __future__ import annotations

from collections.abc import Mapping

_SYSTEM = {"role": "system", "content": "{system_message}"}
_USER = {"role": "user", "content": "{prompt}"}


def prompt_template(template: str | None, tokens: Mapping[str, str]) -> str | None:
    """Render one exchange of a conversation, up to where the model answers.

    Args:
        template: the chat template, in Jinja. It is not trusted: it runs in a sandbox without access to anything.
        tokens: the texts of ``bos_token`` and ``eos_token``.

    Returns:
        The text with ``{system_message}`` and ``{prompt}`` in their places; None when there is no template, or when it
        fails.

    Example:
        >>> prompt_template("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", {})
        '<|system|>{system_message}<|user|>{prompt}'
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
    for messages in ([_SYSTEM, _USER], [_USER]):  # some templates refuse a system message
        context: dict[str, object] = {"messages": messages, "add_generation_prompt": True, **tokens}
        try:
            text = environment.from_string(template).render(**context)
        except Exception:  # a template can fail in any way
            continue
        if "{prompt}" in text:
            return text
    return None
