"""A vocabulary on its way from a folder's files to the arrays of a ``Tokenizer``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import TokenizerError
from ....ir import TokenType

# What llama.cpp's converter gives added tokens, and the rows after the vocabulary's end.
ADDED_SCORE = -1000.0
PADDING_SCORE = -10000.0


@dataclass(frozen=True)
class Vocabulary:
    """What the reader of one kind of tokenizer finds, before special ids are known.

    Args:
        model: llama.cpp's name of the kind, as in ``Tokenizer.model``.
        pre: llama.cpp's name of the pre-tokenizer, as in ``Tokenizer.pre``.
        tokens: id -> (text as GGUF stores it, type); ids may be missing.
        scores: id -> score, or None for kinds without scores.
        merges: as in ``Tokenizer.merges``.
        special: ids that the vocabulary file itself names, used where nothing else does.
        flags: as in ``Tokenizer.flags``.
        charsmap: the table of replacements of a Unigram tokenizer, or None.
    """

    model: str
    pre: str | None
    tokens: Mapping[int, tuple[str, TokenType]]
    scores: Mapping[int, float] | None = None
    merges: tuple[str, ...] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    charsmap: bytes | None = None

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
                hint="resize the model's embeddings, or remove the added tokens it was not trained with",
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
