"""What ``write_tokenizer`` records in tokenizer_config.json because no other place in a folder's files holds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...ir import Tokenizer, TokenType
from .common.documents import is_padding, unknown_id
from .files.added_tokens import AddedToken
from .files.json_values import Json
from .files.tokenizer_config import RecordedFacts
from .splitting.pre_tokenizers import BY_NAME


def restore_types(types: NDArray[np.int32], recorded: RecordedFacts) -> NDArray[np.int32]:
    """Types of tokens (int32 ``TokenType``), with the recorded ones where the files say otherwise or nothing."""
    restored = types.copy()
    for number, kind in recorded.token_types.items():
        if number < len(types):
            restored[number] = kind
    return restored


def restore_pre(pre: str | None, recorded: RecordedFacts) -> str | None:
    """Of the pre-tokenizer names that split as ``pre`` does, the recorded one."""
    if recorded.pre not in BY_NAME or pre not in BY_NAME:
        return pre
    return recorded.pre if BY_NAME[recorded.pre] is BY_NAME[pre] else pre


def facts_to_record(tok: Tokenizer) -> Json:
    """What reading would not find again: the pre-tokenizer's name among equals, and types that the files cannot say."""
    facts: Json = {}
    if tok.model == "gpt2" and tok.pre in BY_NAME and BY_NAME[tok.pre].name != tok.pre:
        facts["pre"] = tok.pre
    unk = unknown_id(tok) if tok.model in ("llama", "t5", "gemma4") else None
    named = set(tok.special.values())  # which makes them special to transformers, of whatever type they are
    types = {}
    for i, (text, kind) in enumerate(zip(tok.tokens, tok.types.tolist(), strict=True)):
        if kind == TokenType.USER_DEFINED:
            found = AddedToken(text, special=False).type == kind
        elif kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            found = (kind == TokenType.UNKNOWN) == (i == unk)
        else:
            ordinary = kind != TokenType.UNUSED or is_padding(tok, i) or tok.model in ("llama", "t5")
            found = ordinary and i not in named
        if not found:
            types[str(i)] = kind
    return {**facts, **({"token_types": types} if types else {})}
