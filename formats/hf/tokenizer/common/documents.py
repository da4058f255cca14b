"""What every kind of tokenizer.json is written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ....errors import TokenizerError
from ....ir import Tokenizer, TokenType
from ..files.json_values import Json

SPACE = "▁"  # SentencePiece's sign for a space


def tokenizer_document(
    *,
    normalizer: Json | None,
    pre_tokenizer: Json | None,
    decoder: Json,
    model: Json,
    post_processor: Json | None = None,
) -> Json:
    """tokenizer.json without added tokens, in the order of keys that the tokenizers library writes."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }


def ids_by_text(texts: Iterable[tuple[int, str]]) -> dict[str, int]:
    """The vocabulary that a folder's files hold: text -> id.

    Raises:
        TokenizerError: a text that two tokens have; one of them would be lost.

    Example:
        >>> ids_by_text(enumerate(["a", "b"]))
        {'a': 0, 'b': 1}
    """
    vocab: dict[str, int] = {}
    for number, text in texts:
        if (other := vocab.setdefault(text, number)) != number:
            raise TokenizerError(
                f"tokens {other} and {number} are both {text!r}, and a Hugging Face tokenizer has one token of a text",
                where="tokenizer.ggml.tokens",
                hint="llama.cpp refuses such a file, too; make it again from its checkpoint, or rename one of the two",
            )
    return vocab


def bpe_model(
    vocab: Mapping[str, int],
    merges: Iterable[list[str]],
    *,
    byte_fallback: bool,
    unk_token: str | None = None,
    ignore_merges: bool = False,
) -> Json:
    """The model of a BPE.

    Args:
        vocab: text -> id.
        merges: pairs in rank order.
        byte_fallback: whether what is not in the vocabulary becomes ``<0xNN>`` tokens, as in SentencePiece's kinds.
        unk_token: the unknown token's text, or None.
        ignore_merges: whether a word in the vocabulary is a token whatever the merges say.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": dict(vocab),
        "merges": list(merges),
    }


def piece_decoder(*, strip_prefix: bool) -> Json:
    """The decoder of SentencePiece's kinds: ▁ becomes a space, ``<0xNN>`` tokens their bytes.

    Args:
        strip_prefix: whether the first space is taken off again, because one was put before the text.
    """
    steps: list[Json] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if strip_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def is_padding(tok: Tokenizer, number: int) -> bool:
    """Whether a token only fills an embedding row that the vocabulary does not reach."""
    return bool(tok.types[number] == TokenType.UNUSED and tok.tokens[number] == f"[PAD{number}]")


def content_length(tok: Tokenizer) -> int:
    """How many tokens there are up to the last that is not padding."""
    n = len(tok.tokens)
    while n and is_padding(tok, n - 1):
        n -= 1
    return n


def unknown_id(tok: Tokenizer) -> int | None:
    """The unknown token's id. Without a key llama.cpp's is 0, or in a Unigram 2 (llama-vocab.cpp, load)."""
    unk = tok.special.get("unk", 2 if tok.model == "t5" else 0)
    return unk if unk < len(tok.tokens) and tok.types[unk] in (TokenType.UNKNOWN, TokenType.CONTROL) else None


def unknown_text(tok: Tokenizer) -> str | None:
    """The unknown token's text."""
    unk = unknown_id(tok)
    return None if unk is None else tok.tokens[unk]
