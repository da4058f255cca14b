"""Text to chunks of tokens, cut as llama.cpp's imatrix and perplexity tools cut it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import QuantmillError, TokenizerError

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Corpus:
    """A text as windows of tokens.

    Args:
        tokens: int32 [chunks, n_ctx]: the text's own tokens, what is to be predicted.
        inputs: the same with each window's first token replaced by BOS, where the model wants one: what goes in.
        first_chunk: the number of the first window in the text.
        name: the text's name, as written into files.
    """

    tokens: Tokens
    inputs: Tokens
    first_chunk: int
    name: str

    @property
    def n_chunks(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])


@dataclass(frozen=True)
class TextTokenizer:
    """A ``tokenizers.Tokenizer`` and what llama.cpp adds around it.

    Args:
        encoder: the ``tokenizers.Tokenizer`` of the checkpoint.
        bos: the BOS token's id if the model wants one before a text, else None.
        vocab_size: rows of the model's embedding; a token beyond them means the tokenizer is another model's.
    """

    encoder: Any
    bos: int | None
    vocab_size: int

    def encode(self, text: str, parse_special: bool = False) -> Tokens:
        """The text's tokens, BOS first if wanted.

        Args:
            text: any.
            parse_special: whether ``<|im_start|>`` in the text means the control token or its letters.

        Raises:
            TokenizerError: a token is beyond the model's vocabulary.
        """
        # tokenizers' name for llama.cpp's parse_special, the other way round
        self.encoder.encode_special_tokens = not parse_special
        ids = np.asarray(self.encoder.encode(text, add_special_tokens=False).ids, np.int32)
        if self.bos is not None:
            ids = np.concatenate([np.array([self.bos], np.int32), ids])
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise TokenizerError(
                f"the tokenizer gives token {int(ids.max())}, but the model has only {self.vocab_size}",
                hint="the tokenizer belongs to another model",
            )
        return ids


def read_text(path: Path) -> str:
    """A text file, without its last newline (as llama.cpp's ``-f`` reads it).

    Raises:
        QuantmillError: it cannot be read, is empty or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise QuantmillError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise QuantmillError("is not UTF-8 text", path=path, where=f"byte {error.start}") from None
    text = text.removesuffix("\n")
    if not text:
        raise QuantmillError("the text is empty", path=path)
    return text


def default_text() -> Path:
    """The calibration text that ships with the package.

    Prose, dialogue, tables and code in ten languages, written for this purpose and free like the package, between short
    passages without copyright: the Universal Declaration of Human Rights (article 1, in 17 languages), Genesis 1 (King
    James), Melville, Austen, Lincoln, Shakespeare, Cervantes, Dante, Proust, Tolstoy, Soseki, Laozi, Confucius, Virgil.
    """
    return Path(__file__).parent / "calibration.txt"


def cut(
    tokens: Sequence[int] | Tokens,
    n_ctx: int,
    bos: int | None = None,
    *,
    chunks: int | None = None,
    from_chunk: int = 0,
    name: str = "",
) -> Corpus:
    """Whole windows of ``n_ctx`` tokens; what is left over at the end is not used.

    Args:
        tokens: the text.
        n_ctx: tokens in a window.
        bos: replaces each window's first token, as llama.cpp does when the model adds BOS.
        chunks: at most so many; None (or -1) for all.
        from_chunk: the first window to take.
        name: the text's name.

    Raises:
        QuantmillError: fewer tokens than one window, or than ``from_chunk`` windows and one more.
    """
    assert n_ctx > 1, n_ctx
    data = np.asarray(tokens, np.int32)
    available = len(data) // n_ctx
    if available < 1:
        problem = f"the text has {len(data)} tokens, a chunk needs {n_ctx}"
        raise QuantmillError(problem, path=name or None, hint=f"give more text, or -c {_power_of_two(len(data))}")
    if from_chunk >= available:
        problem = f"the text has {available} chunks of {n_ctx} tokens; none is left from chunk {from_chunk}"
        raise QuantmillError(problem, path=name or None)
    end = available if chunks is None or chunks < 0 else min(available, from_chunk + chunks)
    if end <= from_chunk:
        raise QuantmillError("no chunk was asked for", path=name or None, hint="--chunks must be 1 at least")
    windows = data[from_chunk * n_ctx : end * n_ctx].reshape(-1, n_ctx).copy()
    inputs = windows.copy()
    if bos is not None:
        inputs[:, 0] = bos
    return Corpus(windows, inputs, from_chunk, name)


def _power_of_two(n: int) -> int:
    return 1 << max(1, n.bit_length() - 1)
