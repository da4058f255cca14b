"""A vocabulary on its way from a folder's files to the arrays of a ``Tokenizer``."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ....errors import TokenizerError, name_list
from ....ir import TokenType
from ..files.numbering import AddedTokens
from .merges import merge_from_gguf

# What llama.cpp's converter gives added tokens, and the rows after the vocabulary's end.
ADDED_SCORE = -1000.0
PADDING_SCORE = -10000.0

T = TypeVar("T")


@dataclass(frozen=True)
class Vocabulary:
    """What the reader of one kind of tokenizer finds, before special ids are known.

    Args:
        model: llama.cpp's name of the kind, as in ``Tokenizer.model``.
        pre: llama.cpp's name of the pre-tokenizer, as in ``Tokenizer.pre``.
        tokens: id -> (text as GGUF stores it, type); ids may be missing.
        added: the added tokens among them.
        scores: id -> score, or None for kinds without scores.
        merges: as in ``Tokenizer.merges``.
        special: ids that the vocabulary file itself names, used where nothing else does.
        flags: as in ``Tokenizer.flags``.
        charsmap: the table of replacements of a Unigram tokenizer, or None.
        notes: a line about each thing that llama.cpp does otherwise.
    """

    model: str
    pre: str | None
    tokens: Mapping[int, tuple[str, TokenType]]
    added: AddedTokens
    scores: Mapping[int, float] | None = None
    merges: tuple[str, ...] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    charsmap: bytes | None = None
    notes: tuple[str, ...] = ()

    def within(self, n_rows: int, *, drop: bool) -> tuple[Vocabulary, list[str]]:
        """Leave out tokens beyond the embedding's rows: those that are only named, and with ``drop`` all others.

        Returns:
            the vocabulary, and a line for each reason to leave tokens out.
        """
        beyond = sorted(number for number in self.tokens if number >= n_rows)
        named = [number for number in beyond if number in self.added.only_named]
        further = [number for number in beyond if number not in self.added.only_named] if drop else []
        lines = []
        if named:
            names = name_list([repr(self.tokens[number][0]) for number in named], 3)
            lines.append(
                f"left out the special tokens {names}, which are named but in no vocabulary: the embedding has"
                f" {n_rows} rows, and transformers would number them from {named[0]} on"
            )
        if further:
            names = name_list([f"{number} ({self.tokens[number][0]!r})" for number in further], 3)
            lines.append(f"left out tokens beyond the embedding's {n_rows} rows: {names}")
        return self._without({*named, *further}), lines

    def _without(self, ids: Set[int]) -> Vocabulary:
        """The vocabulary without these tokens and the merges that make them."""
        if not ids:
            return self

        def kept(items: Mapping[int, T]) -> dict[int, T]:
            return {number: item for number, item in items.items() if number not in ids}

        texts = {self.tokens[number][0] for number in ids}
        merges = self.merges
        if merges is not None:
            merges = tuple(merge for merge in merges if "".join(merge_from_gguf(merge)) not in texts)
        return replace(
            self,
            tokens=kept(self.tokens),
            added=replace(self.added, by_id=kept(self.added.by_id)),
            scores=None if self.scores is None else kept(self.scores),
            merges=merges,
            special={name: number for name, number in self.special.items() if number not in ids},
        )

    def arrays(self, n_rows: int, path: Path) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.float32] | None]:
        """Texts, types (int32) and scores (float32) of ``n_rows`` tokens; missing ids are ``[PADn]``, of type UNUSED.

        Args:
            n_rows: rows of the embedding.
            path: the folder, for messages.

        Raises:
            TokenizerError: a token beyond the embedding's rows, or two tokens of one text.
        """
        if self.tokens and max(self.tokens) >= n_rows:
            last = max(self.tokens)
            raise TokenizerError(
                f"token {last} ({self.tokens[last][0]!r}) is beyond the embedding's {n_rows} rows",
                path=path,
                hint="resize the model's embeddings, or leave such tokens out: convert --drop-extra-tokens",
            )
        texts = [f"[PAD{i}]" for i in range(n_rows)]
        types = np.full(n_rows, TokenType.UNUSED, np.int32)
        for number, (text, kind) in self.tokens.items():
            texts[number], types[number] = text, kind
        scores = None
        if self.scores is not None:
            scores = np.full(n_rows, PADDING_SCORE, np.float32)
            scores[list(self.scores)] = list(self.scores.values())
        if len(set(texts)) < n_rows:
            seen: dict[str, int] = {}
            for number, text in enumerate(texts):
                if text in seen:
                    raise TokenizerError(
                        f"tokens {seen[text]} and {number} are both {text!r}; llama.cpp needs distinct texts", path=path
                    )
                seen[text] = number
        return tuple(texts), types, scores
