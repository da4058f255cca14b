"""Tokens added to a vocabulary, which three files of a folder may list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ....ir import TokenType
from .json_values import json_object, text, token_id, token_id_text

# llama.cpp's converter takes these for control tokens whatever the files say (conversion/base.py,
# does_token_look_special): command-r, deepseek-coder and gemma mark theirs as ordinary.
_CONTROL_TEXTS = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in a text before anything else is done to it.

    Args:
        text: the token's text.
        special: whether the files call it special: a control token, left out of decoded text.
        lstrip: whether it takes the spaces before it.
        rstrip: whether it takes the spaces after it.
    """

    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False

    @property
    def type(self) -> TokenType:
        """CONTROL for special tokens and those that look like one to llama.cpp's converter, else USER_DEFINED."""
        looks_special = self.text in _CONTROL_TEXTS or any(
            self.text.startswith(a) and self.text.endswith(b) for a, b in _CONTROL_BRACKETS
        )
        return TokenType.CONTROL if self.special or looks_special else TokenType.USER_DEFINED

    @property
    def stored_text(self) -> str:
        """The text as GGUF holds it: llama.cpp looks for user-defined tokens before it turns spaces into ▁."""
        return self.text if self.type is TokenType.CONTROL else self.text.replace("▁", " ")


def added_token(value: object) -> AddedToken:
    """Parse ``{"content": ..., "special": ..., "lstrip": ..., "rstrip": ...}``."""
    token = json_object(value)
    return AddedToken(text(token.get("content")), *(bool(token.get(key)) for key in ("special", "lstrip", "rstrip")))


def numbered_token(value: object) -> tuple[int, AddedToken]:
    """Parse an entry of tokenizer.json's ``added_tokens``, which has an ``id``, too."""
    return token_id(json_object(value).get("id")), added_token(value)


def tokens_by_id(value: object) -> dict[int, AddedToken]:
    """Parse tokenizer_config.json's ``added_tokens_decoder``: ``{"17": {"content": ...}}``."""
    return {token_id_text(key): added_token(token) for key, token in json_object(value).items()}


def merge_added_tokens(
    listed: Iterable[tuple[int, AddedToken]],
    ids: Mapping[str, int],
    decoder: Mapping[int, AddedToken],
    special_texts: Collection[str],
) -> dict[int, AddedToken]:
    """Every added token by its id; where files disagree, the last of these wins.

    Args:
        listed: tokenizer.json's ``added_tokens``.
        ids: added_tokens.json, which does not say what is special.
        decoder: tokenizer_config.json's ``added_tokens_decoder``.
        special_texts: texts that the folder calls special elsewhere.
    """
    merged = dict(listed)
    for content, number in ids.items():
        known = merged.get(number)
        merged[number] = AddedToken(content, content in special_texts or (known is not None and known.special))
    return {**merged, **decoder}
