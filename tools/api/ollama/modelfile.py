"""A Modelfile: what ``ollama create`` makes a model of, with the model's own template, stops and sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ....formats.errors import visible
from ..chat_templates import ChatTemplate
from .chat_form import ChatForm, NoForm, learn_form
from .go_template import go_template

if TYPE_CHECKING:
    from ....formats.ir import Model

# general.sampling.* of a GGUF file, which come from generation_config.json -> Ollama's parameter.
_SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}  # fmt: skip
_WHOLE = {"top_k", "repeat_last_n"}
_READS_GGUF = "Ollama reads the one in the GGUF file"
_TOOLS = "tools and thinking are not translated; without TEMPLATE, Ollama reads the template in the GGUF file"


@dataclass(frozen=True)
class Translated:
    """A chat template in Go's template language.

    Args:
        text: the template; None where it was not translated.
        remarks: what differs from the model's own, or why it was not translated.
    """

    text: str | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says.

    Args:
        files: names of the GGUF files beside it: the model, and the towers of one that sees or hears.
        template: the chat template, or None for a model without one.
        stops: texts that end an answer.
        parameters: Ollama's parameters, by name.
        license: the license's text, or its identifier, or None.
    """

    files: Sequence[str]
    template: Translated | None = None
    stops: Sequence[str] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None


def translate(template: ChatTemplate, *, drop_bos: bool) -> Translated:
    """Translate a chat template, or say why not.

    Args:
        template: the model's own.
        drop_bos: whether the token that begins a text is left out, since the vocabulary adds it.

    Example:
        >>> text = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}<|assistant|>"
        >>> "<|user|>{{ .Content }}</s>" in translate(ChatTemplate(text), drop_bos=True).text
        True
    """
    try:
        form: ChatForm = learn_form(template, drop_bos=drop_bos)
    except NoForm as error:
        return Translated(None, (f"TEMPLATE is not translated: {error}; {_READS_GGUF}",))
    text = go_template(form)
    if text is None:
        why = "it has quotation marks or characters that a Modelfile cannot hold"
        return Translated(None, (f"TEMPLATE is not translated: {why}; {_READS_GGUF}",))
    tools = (_TOOLS,) if "tools" in template.text or "think" in template.text else ()
    return Translated(text, (*form.remarks, *tools))


def sampling_parameters(model: Model) -> dict[str, float]:
    """Ollama's parameters from what the model says of sampling; those that are no numbers are left out."""
    found: dict[str, float] = {}
    for key, name in _SAMPLING.items():
        value = model.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
            found[name] = int(value) if name in _WHOLE else round(float(value), 6)  # it may be a float32
    return found


def modelfile(facts: Modelfile) -> str:
    """Write a Modelfile.

    Example:
        >>> print(modelfile(Modelfile(["Tiny.Q4_K_M.gguf"], stops=["</s>"], parameters={"num_ctx": 4096})))
        FROM ./Tiny.Q4_K_M.gguf
        PARAMETER num_ctx 4096
        PARAMETER stop "</s>"
        <BLANKLINE>
    """
    lines = [f"FROM ./{name}" for name in facts.files]
    if facts.template is not None:
        lines += [f"# {visible(remark)}" for remark in facts.template.remarks]
        if facts.template.text is not None:
            lines.append(f'TEMPLATE """{facts.template.text}"""')
    lines += [f"PARAMETER {name} {value}" for name, value in facts.parameters.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in facts.stops if visible(stop) == stop]
    if facts.license is not None:
        lines.append(f'LICENSE """{facts.license}"""')
    return "\n".join(lines) + "\n"


def holds(text: str) -> bool:
    """Whether a Modelfile can hold a text in three quotation marks."""
    return '"""' not in text and not text.endswith('"')
