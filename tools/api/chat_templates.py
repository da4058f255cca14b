"""Chat templates in Jinja, as checkpoints have them, rendered where they can do no harm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# A tag of transformers' around what the model writes, which changes nothing of the text.
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(?=\s*[-+]?%\})")
Messages = Sequence[Mapping[str, str]]  # each with ``role`` and ``content``


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template. It is not trusted: it runs in a sandbox without access to anything.

    Args:
        text: the template, in Jinja.
        tokens: the texts of ``bos_token`` and ``eos_token``.
        today: what ``strftime_now`` gives for each form that it is asked for; None where there is no such function.

    Example:
        >>> template = ChatTemplate("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
        >>> template.render([{"role": "user", "content": "Hello"}])
        '<|user|>Hello'
    """

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    today: Mapping[str, str] | None = None

    def render(self, messages: Messages, *, generation: bool = True) -> str | None:
        """The text of a conversation; None if the template fails or refuses it.

        Args:
            generation: whether the text ends where the model is to answer.
        """
        if self._compiled is None:
            return None
        try:
            text: str = self._compiled.render(messages=messages, add_generation_prompt=generation, **self.tokens)
        except Exception:  # a template can fail in any way
            return None
        return text

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment.globals["raise_exception"] = refuse
        if self.today is not None:
            environment.globals["strftime_now"] = self.today.__getitem__
        try:
            return environment.from_string(_GENERATION.sub(_as_condition, self.text))
        except Exception:
            return None


def _as_condition(match: re.Match[str]) -> str:
    return match[1] + ("endif" if match[2] else "if true")
