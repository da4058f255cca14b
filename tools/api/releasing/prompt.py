"""Show how a model expects a conversation: its chat template, filled with placeholders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ..chat_templates import ChatTemplate

_SYSTEM = {"role": "system", "content": "{system_message}"}
_USER = {"role": "user", "content": "{prompt}"}


def prompt_template(template: str | None, tokens: Mapping[str, str]) -> str | None:
    """Render one exchange of a conversation, up to where the model answers.

    Args:
        template: the chat template, in Jinja.
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
    chat = ChatTemplate(template, tokens, today=defaultdict(str))  # a date is no part of the prompt's form
    for messages in ([_SYSTEM, _USER], [_USER]):  # some templates refuse a system message
        text = chat.render(messages)
        if text is not None and "{prompt}" in text:
            return text
    return None
