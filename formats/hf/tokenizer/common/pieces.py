"""What the kinds of tokenizer with SentencePiece's pieces share when they are read."""

from __future__ import annotations

import re

from ....ir import TokenType
from ..files.folder import TokenizerFolder
from ..files.tokenizer_json import BpeModel

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def is_byte(text: str) -> bool:
    """Whether a piece stands for a byte: ``<0x0A>``."""
    return text.startswith("<0x") and _BYTE.fullmatch(text) is not None


def unknown_piece(folder: TokenizerFolder, model: BpeModel) -> str:
    """The text of the unknown token. transformers 5 writes none into the model; its class's default stands in."""
    return model.unk_token or next(filter(None, folder.named_texts("unk_token")), "<unk>")


def piece_type(text: str, unknown: str) -> TokenType:
    """The type of a piece by its text: UNKNOWN, BYTE or NORMAL."""
    if text == unknown:
        return TokenType.UNKNOWN
    return TokenType.BYTE if is_byte(text) else TokenType.NORMAL
