"""A vocabulary on its way from Hugging Face's files to the arrays of a GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TokenizerError
from ...ir import TokenType

ADDED_SCORE = -1000.0  # what llama.cpp's converter gives added tokens
PADDING_SCORE = -10000.0  # and the rows after the vocabulary's end


@dataclass(frozen=True)
class Vocabulary:
    """What a vocabulary file holds, before special ids are known.

    Args:
        tokens: id -> (text as GGUF stores it, type).
        scores: id -> score, or None for byte-level BPE.
        special: ids that the vocabulary file itself names, used where nothing else does.
        flags: as in ``Tokenizer.flags``.
        charsmap: the Unigram normalizer's table.
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
        """Texts, types and scores of ``n_rows`` tokens; ids nobody claims are ``[PADn]``, unused.

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
                        f"tokens {seen[text]} and {number} are both {text!r}; llama.cpp wants distinct texts", path=path
                    )
                seen[text] = number
        return tuple(texts), types, scores
