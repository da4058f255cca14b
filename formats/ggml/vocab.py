"""Convert the vocabulary of a GGML file to a ``Tokenizer``, and back.

A token is stored as its raw bytes and a score: spaces are spaces, not ``▁``. In a Llama's file, id 0 is ``" ⁇ "``
(how SentencePiece writes the unknown token), 1 and 2 are empty (begin and end), 3 to 258 the single bytes.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from ..byte_alphabet import BYTE_OF
from ..errors import PlanError
from ..gguf.wire import Cursor
from ..ir import Tokenizer, TokenType, ValueType

UNKNOWN = " ⁇ ".encode()
ADDED_SCORE = -1000.0  # what llama.cpp's converter gives to the tokens added beside tokenizer.model

_SPECIAL = ("<unk>", "<s>", "</s>")
_FIRST_BYTE = 3  # where SentencePiece puts the 256 byte tokens of a Llama
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MAX_TOKEN = 1 << 16  # bytes; SentencePiece's have 48 at most, added ones are names
_TOKEN_MEMORY = 512  # bytes that a token takes at most, besides its letters (tracemalloc)
_MIN_TOKEN_BYTES = 8  # an empty one: its length and score

Vocabulary = tuple[tuple[bytes, ...], tuple[float, ...]]  # each token's bytes and score


def read_vocabulary(cursor: Cursor, count: int) -> Vocabulary:
    """Read ``count`` tokens.

    Raises:
        FormatError: the file is truncated or damaged.
    """
    cursor.what = "the vocabulary"
    cursor.need(count * _MIN_TOKEN_BYTES)
    texts, scores = [], []
    for i in range(count):
        cursor.what = f"token {i}"
        length = cursor.u32()
        if length > _MAX_TOKEN:
            raise cursor.fail(f"a token of {length} bytes, more than {_MAX_TOKEN}", hint="the file is damaged")
        cursor.charge(_TOKEN_MEMORY + 6 * length)  # its bytes, and the text they become
        texts.append(cursor.take(length))
        scores.append(float(cursor.number(ValueType.FLOAT32)))
    return tuple(texts), tuple(scores)


def decode_vocabulary(vocabulary: Vocabulary) -> Tokenizer | None:
    """Decode a SentencePiece vocabulary. None if it is of another kind, which needs merges that the file lacks."""
    texts, scores = vocabulary
    n_fixed = _FIRST_BYTE + 256
    single = tuple(bytes([value]) for value in range(256))
    if len(texts) < n_fixed or texts[1:3] != (b"", b"") or texts[_FIRST_BYTE:n_fixed] != single:
        return None
    tokens = [*_SPECIAL, *(f"<0x{value:02X}>" for value in range(256))]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    for number in range(n_fixed, len(texts)):
        text = texts[number].decode("utf-8", "surrogateescape")
        if not text:
            text, kind = f"[PAD{number}]", TokenType.UNUSED
        elif scores[number] == ADDED_SCORE:
            kind = TokenType.USER_DEFINED
        else:
            text, kind = text.replace(" ", "▁"), TokenType.NORMAL
        tokens.append(text)
        types.append(kind)
    return Tokenizer(
        model="llama",
        pre="default",
        tokens=tuple(tokens),
        types=np.array(types, np.int32),
        scores=np.array(scores, np.float32),
        special={"bos": 1, "eos": 2, "unk": 0},
        flags={"add_bos_token": True, "add_eos_token": False},
    )


def encode_vocabulary(tok: Tokenizer, n_vocab: int) -> bytes:
    """Encode a vocabulary.

    Raises:
        PlanError: the format cannot hold this kind of tokenizer, or there are not as many tokens as embedding rows.
    """
    if tok.model not in ("llama", "gpt2"):
        raise PlanError(f"a GGML file cannot hold a {tok.model} tokenizer", where="tokenizer.ggml.model")
    if len(tok.tokens) != n_vocab:
        problem = f"{len(tok.tokens)} tokens for {n_vocab} rows of token_embd.weight"
        raise PlanError(problem, where="tokenizer.ggml.tokens")
    scores = np.zeros(n_vocab, np.float32) if tok.scores is None else tok.scores
    parts = []
    for text, kind, score in zip(tok.tokens, tok.types.tolist(), scores.tolist(), strict=True):
        raw = _token_bytes(tok, text, TokenType(kind), score)
        parts += [struct.pack("<I", len(raw)), raw, struct.pack("<f", score)]
    return b"".join(parts)


def _token_bytes(tok: Tokenizer, text: str, kind: TokenType, score: float) -> bytes:
    whole = text.encode("utf-8", "surrogateescape")
    if kind is TokenType.BYTE and (match := _BYTE.fullmatch(text)):
        return bytes([int(match[1], 16)])
    if tok.model == "gpt2":
        if kind is TokenType.NORMAL and all(char in BYTE_OF for char in text):
            return bytes(BYTE_OF[char] for char in text)
        return whole
    if kind is TokenType.UNKNOWN:
        return UNKNOWN
    if kind is TokenType.CONTROL and score != ADDED_SCORE:
        return b""
    if kind is TokenType.UNUSED and text.startswith("[PAD"):
        return b""
    if kind is TokenType.NORMAL:
        return text.replace("▁", " ").encode("utf-8", "surrogateescape")
    return whole
