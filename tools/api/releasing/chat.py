"""What a model says of conversations: its template, and the tokens that begin and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ....formats.ir import Model

_BPE_WITH_BOS = {"llama-bpe", "tekken", "chameleon"}  # where llama.cpp adds it unless a file says otherwise
_ENDS = ("eos", "eot", "eom")


@dataclass(frozen=True)
class Chat:
    """How a model converses.

    Args:
        template: the chat template, in Jinja; None if there is none.
        tokens: the texts of ``bos_token`` and ``eos_token``, of those that there are.
        ends: the texts of the tokens that end an answer, each once.
        adds_bos: whether the vocabulary puts the first token before every text.
    """

    template: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    adds_bos: bool = True


def chat_of(model: Model) -> Chat:
    """Read how a model converses; nothing of a model without a tokenizer."""
    from ....formats.gguf.vocab import tokenizer_of

    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return Chat()
    names = {short: tokenizer.tokens[i] for short, i in tokenizer.special.items()}
    tokens = {f"{short}_token": names[short] for short in ("bos", "eos") if short in names}
    ends = dict.fromkeys(names[short] for short in _ENDS if short in names)
    default = tokenizer.model != "gpt2" or tokenizer.pre in _BPE_WITH_BOS
    adds_bos = tokenizer.flags.get("add_bos_token", default)
    return Chat(tokenizer.chat_templates.get("default"), tokens, tuple(ends), adds_bos)
