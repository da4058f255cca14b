"""Cut a text into chunks of tokens, as llama.cpp's imatrix and perplexity tools do."""

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
    """A text as chunks of tokens.

    Args:
        tokens: int32 [chunks, n_ctx], the text's own tokens: what the model is to predict.
        inputs: int32 [chunks, n_ctx], what the model is given: the same, but each chunk's first token is BOS where the
            model expects one.
        first_chunk: the number of the first chunk in the text.
        name: the text's name, as it is written into files.
    """

    tokens: Tokens
    inputs: Tokens
    first_chunk: int
    name: str

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens in each chunk."""
        return int(self.tokens.shape[1])


@dataclass(frozen=True)
class TextTokenizer:
    """A ``tokenizers.Tokenizer``, and the BOS token that llama.cpp adds to its output.

    Args:
        encoder: the ``tokenizers.Tokenizer`` of the checkpoint.
        bos: the BOS token's id if the model expects one before a text, else None.
        vocab_size: rows of the model's embedding; a token beyond them means that the tokenizer is another model's.
    """

    encoder: Any
    bos: int | None
    vocab_size: int

    def encode(self, text: str, parse_special: bool = False) -> Tokens:
        """Tokenize a text: int32 [n_tokens], with BOS first if the model expects it.

        Args:
            text: the text.
            parse_special: whether a control token's name in the text, such as ``<|im_start|>``, means that token. If
                not, it is tokenized letter by letter like any other text.

        Raises:
            TokenizerError: a token is beyond the model's vocabulary.
        """
        # what tokenizers calls so is the opposite of llama.cpp's parse_special
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
    """Read a text file, without its last newline, as llama.cpp's ``-f`` does.

    Raises:
        QuantmillError: the file cannot be read, is empty, or is not UTF-8.
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
    """The path of the calibration text that is part of this package.

    It holds prose, code in twenty languages, documentation, dialogue in the templates of chat models, mathematics, and
    40 languages in 19 scripts, from packages that are free to copy; ``calibration.sources.md`` beside it lists them
    with their licences, and ``tests/oracles/make_calibration_text.py`` makes it again. It repeats no 16 words in a row,
    and its parts take turns, so that the first chunks are mixed as the whole is.
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
    """Cut a text into chunks of exactly ``n_ctx`` tokens; the tokens left over at the end are not used.

    Args:
        tokens: the text's tokens.
        n_ctx: tokens in a chunk, at least 2.
        bos: replaces each chunk's first token, as llama.cpp does when the model adds BOS.
        chunks: how many chunks to take at most; None or -1 for all.
        from_chunk: the first chunk to take.
        name: the text's name.

    Raises:
        QuantmillError: the text has no chunk with the number ``from_chunk``, or ``chunks`` is 0.

    Example:
        >>> corpus = cut(range(10, 19), n_ctx=4, bos=1)
        >>> corpus.tokens.tolist()
        [[10, 11, 12, 13], [14, 15, 16, 17]]
        >>> corpus.inputs.tolist()
        [[1, 11, 12, 13], [1, 15, 16, 17]]
    """
    assert n_ctx > 1, n_ctx
    data = np.asarray(tokens, np.int32)
    available = len(data) // n_ctx
    if available < 1:
        problem = f"the text has {len(data)} tokens, a chunk needs {n_ctx}"
        raise QuantmillError(problem, path=name or None, hint=f"give more text, or -c {_power_of_two(len(data))}")
    if from_chunk >= available:
        problem = f"the text has {available} chunks of {n_ctx} tokens, so there is no chunk {from_chunk}"
        raise QuantmillError(problem, path=name or None)
    end = available if chunks is None or chunks < 0 else min(available, from_chunk + chunks)
    if end <= from_chunk:
        raise QuantmillError("no chunk is left to use", path=name or None, hint="--chunks must be at least 1")
    windows = data[from_chunk * n_ctx : end * n_ctx].reshape(-1, n_ctx).copy()
    inputs = windows.copy()
    if bos is not None:
        inputs[:, 0] = bos
    return Corpus(windows, inputs, from_chunk, name)


def _power_of_two(n: int) -> int:
    return 1 << max(1, n.bit_length() - 1)
