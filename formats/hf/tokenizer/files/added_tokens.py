"""Tokens added to a vocabulary, as the files of a folder list and name them. ``numbering.py`` gives them their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ....ir import TokenType
from .json_values import flag, json_object, text, token_id, token_id_text

# llama.cpp's converter takes these for control tokens whatever the files say (conversion/base.py,
# does_token_look_special): command-r, deepseek-coder and gemma mark theirs as ordinary.
_CONTROL_TEXTS = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))

_FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")
# transformers' SPECIAL_TOKENS_ATTRIBUTES, in its order.
TOKEN_KEYS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


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


@dataclass(frozen=True)
class NamedTokens:
    """The special tokens that a file names.

    Args:
        by_key: such as ``pad_token`` -> the token, or None where the file says that there is none.
        additional: ``additional_special_tokens``; None where there is no such list.
        extra: ``extra_special_tokens``, which took its place in 2025; None where there is no such list.
    """

    by_key: Mapping[str, AddedToken | None]
    additional: tuple[AddedToken, ...] | None
    extra: tuple[AddedToken, ...] | None

    @property
    def further(self) -> tuple[AddedToken, ...] | None:
        """The list of further tokens that transformers goes by."""
        return self.extra if self.extra or self.additional is None else self.additional

    def updated(self, later: NamedTokens) -> NamedTokens:
        """What transformers makes of these and of those of special_tokens_map.json.

        The latter outweigh these by the usual keys, and only add by others. Their ``additional_special_tokens`` counts
        where there is no other list.
        """
        keys = dict.fromkeys((*TOKEN_KEYS, *self.by_key, *later.by_key))
        first, second = later.by_key, self.by_key
        by_key = {
            key: (first.get(key, second.get(key)) if key in TOKEN_KEYS else second.get(key, first.get(key)))
            for key in keys
            if key in first or key in second
        }
        further = self.further
        if later.extra:
            further = (*(further or ()), *later.extra)
        return NamedTokens(by_key, later.additional, further) if further is None else NamedTokens(by_key, None, further)


def added_token(value: object) -> AddedToken:
    """Parse ``{"content": ..., "special": ..., "lstrip": ..., "rstrip": ...}``."""
    token = json_object(value)
    special, lstrip, rstrip, *_ = (flag(token.get(key, False)) for key in _FLAGS)
    return AddedToken(text(token.get("content")), special, lstrip, rstrip)


def numbered_token(value: object) -> tuple[int, AddedToken]:
    """Parse an entry of tokenizer.json's ``added_tokens``, which has an ``id``, too."""
    return token_id(json_object(value).get("id")), added_token(value)


def tokens_by_id(value: object) -> dict[int, AddedToken]:
    """Parse tokenizer_config.json's ``added_tokens_decoder``: ``{"17": {"content": ...}}``."""
    return {token_id_text(key): added_token(token) for key, token in json_object(value).items()}


def named_token(value: object) -> AddedToken:
    """Parse a special token as the files name it: its text, or an object."""
    return replace(added_token(value), special=True) if isinstance(value, dict) else AddedToken(text(value), True)
