"""The form of a model's conversations: the texts around what each side says, learnt by rendering its chat template.

A template in Jinja can compute anything. Most write fixed texts around each message, and differ in which; what these
are shows when conversations of known words are rendered. The form that is found is then tried on conversations that it
was not found with, and holds only if it gives what the template gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from ..chat_templates import ChatTemplate, Messages

TODAY = "9876-05-04"  # stands for the date where a template asks for it in the one form that Ollama's function gives
_DATE_FORM = "%Y-%m-%d"

FOLDED = "the template refuses system messages: they stand before the first message of the user"
IGNORED = "the template leaves out system messages"
TRIMMED = "the template removes spaces around messages, which Ollama's language cannot"


class NoForm(Exception):
    """A template writes conversations in no form that fixed texts describe; says why."""


@dataclass(frozen=True)
class ChatForm:
    """The texts around what is said.

    Args:
        first: before the first message of the user, where there is no system message.
        system: before a system message.
        after_system: between it and the first message of the user.
        user, after_user: around later messages of the user; the latter is behind the first, too.
        assistant, after_assistant: around answers.
        generation: what comes last, before the answer that is to be made.
        in_place: whether system messages stand where they are in the conversation, not only before the first message;
            then ``first`` and ``after_system`` end in ``user``.
        has_system: whether system messages are written at all.
        remarks: what differs from the template.
    """

    first: str
    system: str
    after_system: str
    user: str
    after_user: str
    assistant: str
    after_assistant: str
    generation: str
    in_place: bool = False
    has_system: bool = True
    remarks: tuple[str, ...] = ()

    def render(self, messages: Messages) -> str:
        """The text of a conversation, up to where the model answers.

        Example:
            >>> form = ChatForm("Q: ", "", "\\nQ: ", "Q: ", "\\n", "A: ", "\\n", "A:")
            >>> form.render([{"role": "user", "content": "Why?"}])
            'Q: Why?\\nA:'
        """
        texts = list(self._in_order(messages) if self.in_place else self._system_first(messages))
        return "".join(texts) + self.generation

    def _in_order(self, messages: Messages) -> Iterator[str]:
        around = {
            "system": (self.system, self.after_system.removesuffix(self.user)),
            "user": (self.user, self.after_user),
            "assistant": (self.assistant, self.after_assistant),
        }
        if messages[0]["role"] != "system":
            yield self.first.removesuffix(self.user)
        for message in messages:
            before, after = around[message["role"]]
            yield f"{before}{message['content']}{after}"

    def _system_first(self, messages: Messages) -> Iterator[str]:
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system") if self.has_system else ""
        before = f"{self.system}{system}{self.after_system}" if system else self.first
        for message in messages:
            if message["role"] == "user":
                yield f"{before}{message['content']}{self.after_user}"
                before = self.user
            elif message["role"] == "assistant":
                yield f"{self.assistant}{message['content']}{self.after_assistant}"


def learn_form(template: ChatTemplate, *, drop_bos: bool) -> ChatForm:
    """Find the form of a template's conversations.

    Args:
        template: the template.
        drop_bos: whether the token that begins a text is left out of it, since the model's vocabulary adds it.

    Raises:
        NoForm: fixed texts do not describe it.

    Example:
        >>> text = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
        >>> text += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        >>> learn_form(ChatTemplate(text), drop_bos=True).user
        '<|user|>'
    """
    dated = replace(template, today={_DATE_FORM: TODAY})
    candidates = (template, dated)  # most templates have a date of their own where there is no function for it
    rendered = next((one for one in candidates if one.render(_talk("u")) is not None), None)
    if rendered is None:
        raise NoForm("it does not render a message of the user")
    learner = _Learner(rendered, rendered.tokens.get("bos_token", "") if drop_bos else "")
    return learner.checked(learner.learn())


_WORDS = {"u": "quartz", "a": "feldspar", "s": "basalt"}
_ROLES = {"u": "user", "a": "assistant", "s": "system"}


def _talk(roles: str, form: str = "{}") -> list[dict[str, str]]:
    """A conversation of the roles, each message a word that occurs nowhere else."""
    return [
        {"role": _ROLES[role], "content": form.format(f"{_WORDS[role]}{number}")} for number, role in enumerate(roles)
    ]


# What the form is tried on: turns, and messages of several lines, other scripts, and braces.
_TRIED = tuple(
    _talk(roles, form)
    for form in ("{}", "{} one\ntwo\n\nthree", "{}: žluťoučký 漢字 🙂", "{} {{{{ .Role }}}} {{% x %}} <b> \\n")
    for roles in ("u", "uau", "uauau", "su", "suau", "suauau")
)


@dataclass(frozen=True)
class _Learner:
    template: ChatTemplate
    bos: str

    def text(self, messages: Messages, *, generation: bool = True) -> str | None:
        text = self.template.render(messages, generation=generation)
        return None if text is None else text.removeprefix(self.bos)

    def between(self, roles: str, *, generation: bool = True) -> list[str] | None:
        """The texts before, between and behind the messages of a conversation; None if it is refused.

        Raises:
            NoForm: a message does not stand there once, in its place.
        """
        messages = _talk(roles)
        rest, found = self.text(messages, generation=generation), []
        if rest is None:
            return None
        for message in messages:
            if rest.count(message["content"]) != 1:
                raise NoForm(f"a message of {message['role']} does not stand in the text once, in its place")
            before, _, rest = rest.partition(message["content"])
            found.append(before)
        return [*found, rest]

    def learn(self) -> ChatForm:
        one, two = self._needed("u"), self._needed("uau")
        first, tail = one
        after_user = self._needed("u", generation=False)[-1]
        if two[0] != first or two[-1] != tail:
            raise NoForm("its beginning or its end depends on how long the conversation is")
        if not (tail.startswith(after_user) and two[1].startswith(after_user)):  # it ends in another way
            after_user = _common_start(tail, two[1])
        after_assistant = self._needed("ua", generation=False)[-1]
        if not two[2].startswith(after_assistant):  # the last answer ends in another way
            common = _common_end(two[2], first)
            after_assistant = two[2].removesuffix(common)
        form = ChatForm(
            first=first,
            system=first,
            after_system="\n\n",
            user=two[2].removeprefix(after_assistant),
            after_user=after_user,
            assistant=two[1].removeprefix(after_user),
            after_assistant=after_assistant,
            generation=tail.removeprefix(after_user),
        )
        return self._with_system(form)

    def _needed(self, roles: str, *, generation: bool = True) -> list[str]:
        found = self.between(roles, generation=generation)
        if found is None:
            raise NoForm("it refuses a conversation of the user and the assistant")
        return found

    def _with_system(self, form: ChatForm) -> ChatForm:
        text = self.text(_talk("su"))
        if text is None:
            return replace(form, remarks=(FOLDED,))
        if _talk("su")[0]["content"] not in text:
            return replace(form, has_system=False, remarks=(IGNORED,))
        before, after, _ = self._needed("su")
        form = replace(form, system=before, after_system=after)
        if not (after.endswith(form.user) and form.first.endswith(form.user)):
            return form
        placed, later = replace(form, in_place=True), _talk("suasu")
        return placed if self.text(later) == placed.render(later) else form

    def checked(self, form: ChatForm) -> ChatForm:
        """The form, with a remark where spaces around messages are removed.

        Raises:
            NoForm: it does not give what the template gives.
        """
        for messages in _TRIED:
            if messages[0]["role"] == "system" and form.remarks:
                continue
            text = self.text(messages)
            if text is not None and text != form.render(messages):
                raise NoForm("it depends on what is said, or on how long the conversation is")
        spaced = _talk("uau", " {}\n")
        if self.text(spaced) != form.render(spaced):
            return replace(form, remarks=(*form.remarks, TRIMMED))
        return form


def _common_end(one: str, two: str) -> str:
    return _common_start(one[::-1], two[::-1])[::-1]


def _common_start(one: str, two: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
