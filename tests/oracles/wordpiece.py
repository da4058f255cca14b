"""Where llama.cpp's WordPiece (unicode.cpp; ``llm_tokenizer_wpm_session``) is not BERT's."""

from __future__ import annotations

import unicodedata


def unlike_bert(text: str, lowercase: bool) -> bool:
    """Whether a text has something in it that llama.cpp and BERT treat differently.

    BERT gives up words of more than 100 characters. llama.cpp takes vertical tab, form feed and next line for spaces,
    where BERT drops them. Stripping accents (``lowercase``), it drops every kind of mark and leaves Hangul whole, where
    BERT drops non-spacing marks and takes Hangul apart. Its phantom space is a character that texts may have, too.
    """
    long = any(len(word) > 100 for word in text.split())
    return long or any(_char_unlike(c, lowercase) or _newer(c) for c in unicodedata.normalize("NFC", text))


def _char_unlike(char: str, lowercase: bool) -> bool:
    mark = unicodedata.category(char) in ("Mc", "Me")
    return char in "\x0b\x0c\x85▁" or (lowercase and (mark or "가" <= char <= "힣"))


def _newer(char: str) -> bool:
    """Whether a mark, punctuation or format character is newer than what the tokenizers library's tables know."""
    return unicodedata.ucd_3_2_0.category(char) == "Cn" and unicodedata.category(char)[0] in "PMC"
