"""Merges of a BPE: two parts each, which GGUF writes as ``"left right"`` with U+0120 for a space inside a part."""

from __future__ import annotations

from collections.abc import Iterable

from ..files.tokenizer_json import Merge

_SPACE = "\u0120"  # a space within a part


def merges_to_gguf(merges: Iterable[Merge]) -> tuple[str, ...]:
    """Merges of tokenizer.json as GGUF writes them.

    Example:
        >>> merges_to_gguf(["l o", ("a", " b")])
        ('l o', 'a Ġb')
    """
    return tuple(merge if isinstance(merge, str) else _joined(*merge) for merge in merges)


def merge_from_gguf(merge: str) -> list[str]:
    """The two parts of a merge. The first may begin with a space, so llama.cpp looks from the second character on.

    Example:
        >>> merge_from_gguf("l o")
        ['l', 'o']
    """
    left, _, right = merge[1:].partition(" ")
    return [merge[0] + left, right]


def merged_text(merge: Merge) -> str:
    """The token that a merge of tokenizer.json makes."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left + right


def _joined(left: str, right: str) -> str:
    return f"{left.replace(' ', _SPACE)} {right.replace(' ', _SPACE)}"
