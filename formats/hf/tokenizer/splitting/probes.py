"""Strings that show how a tokenizer splits text, and what the tokenizers library makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..files.json_values import Json
from ..files.tokenizers_check import library_errors

_PROBE_PARTS = (
    "Hello", "hello world", "I'm", "I'M", "we'll've", "WE'LL", "it's 's 'S", "don't", "you'd 'D", "'reason", "l'été",
    "CamelCase", "HTMLParser", "iPhone", "éÉa", "ÀÉÎ", "Straße", "ǅungla", "ʰa", "aªb",
    "0", "12", "123", "1234", "12345678", "3.14159", " 42", "a1b22c333d", "٣٤٥٦", "½", "①②③④", "Ⅷ", "x²",
    "!", "...", "?!?", " !!", "a,b", "$100", "a+b=c", "<tag>", "x_y", "#a", "-b", "(c)", "a/b//\n/", "`x`", "~|^", "€5",
    "“q”", "—", "…", "¿qué?", "!!\n", "!! \n\n", "\\n", "@user", "a-b",
    " ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\n \n", " \n", "\n ", "\r\n", "\r\n\r\n", "a\n\nb", "a \n b",
    "a  b", "a   b", "  a", "a  ", "a \t b", "a\t\tb", "\u00a0a", "a\u3000b", "\u2003 x", "x\n    y", "     \n     z",
    "你好", "你好，世界。", "日本語テキスト", "カタカナ ひらがな", "한국어 텍스트", "中文123字", "a中b文c", "ࠀ一",
    "。、！",
    "Привет, мир", "Γειά σου", "שלום", "مرحبا، بالعالم", "नमस्ते दुनिया।", "สวัสดี", "e\u0301t\u0301", "क्षि 12",
    "a\u0308\u0301 b",
    "😀", "😀😀", " 😀", "👩‍👩‍👧", "❤️", "a😀b", "🇩🇪🇫🇷", "☃!",
    "\x00", "\x01\x02", "\u200b", "a\u200bb", "\ufeff", "\ufffd", "\ue000",
)  # fmt: skip
PROBES = (
    *_PROBE_PARTS,
    *(a + b for a, b in zip(_PROBE_PARTS, _PROBE_PARTS[7:] + _PROBE_PARTS[:7], strict=True)),
    *(f"{a} {b}" for a, b in zip(_PROBE_PARTS, _PROBE_PARTS[31:] + _PROBE_PARTS[:31], strict=True)),
)


def split(normalizer: Json | None, pre_tokenizer: Json | None, texts: tuple[str, ...]) -> list[list[str]]:
    """The words that this normalizer and pre-tokenizer make of each text (of bytes, in GPT-2's alphabet)."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    tok = Tokenizer.from_str(
        json.dumps({"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model})
    )
    if tok.normalizer is not None:
        texts = tuple(map(tok.normalizer.normalize_str, texts))
    if tok.pre_tokenizer is None:
        return [[text] for text in texts]
    return [[word for word, _ in tok.pre_tokenizer.pre_tokenize_str(text)] for text in texts]


def split_probes(normalizer: Json | None, pre_tokenizer: Json | None, path: Path) -> list[list[str]]:
    """The words of each probe, by the normalizer and pre-tokenizer of the file at ``path``.

    Raises:
        TokenizerError: the tokenizers library refuses them.
    """
    with library_errors(path, "pre_tokenizer"):
        return split(normalizer, pre_tokenizer, PROBES)


def differing_probes(ours: Sequence[object], theirs: Sequence[object]) -> list[int]:
    """The indices of the probes that two tokenizers treat differently, the shortest probe first."""
    differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    return sorted(differing, key=lambda i: len(PROBES[i]))
