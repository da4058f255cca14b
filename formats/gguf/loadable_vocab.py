"""Whether llama.cpp can load a file's vocabulary. Source: ``llama_vocab::impl::load`` in llama-vocab.cpp."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches

import numpy as np

from ..errors import FormatError
from ..ir import Metadata, Tokenizer, TokenType, ValueType
from .keys import GENERAL_ARCHITECTURE, is_token_id
from .known import BPE_TOKENIZERS, NO_TOKENIZER, PRE_TOKENIZERS, TOKENIZERS
from .vocab import tokenizer_from_metadata

Problem = tuple[str, str, bool]  # the key, what is wrong, and whether only another file mends it

_P = "tokenizer.ggml."
# A model of such a name has the attributes of these tokens changed; llama.cpp fails where one is missing.
_PHI3, _OF_PHI3 = re.compile("phi-?3", re.IGNORECASE), ("</s>", "<unk>", "<s>", "<|endoftext|>")
_PRE_BEFORE_PHI3, _ARCH_BEFORE_PHI3 = re.compile("jina-v2-(de|es|code)"), re.compile("nomic-bert-moe|jina-bert-v3")
_WITHOUT_MERGES = "kimi-k2"  # the one pre-tokenizer that needs none


def vocabulary_problems(metadata: Metadata) -> Iterator[Problem]:
    """Find what llama.cpp would refuse, or could only ignore, in the ``tokenizer.*`` keys."""
    model = metadata.get(_P + "model")
    if model is None:
        yield _P + "model", "is missing; llama.cpp refuses the file", True
        return
    if not isinstance(model.data, str) or model.data in NO_TOKENIZER:
        return
    if model.data not in TOKENIZERS:
        yield _P + "model", f"llama.cpp knows no tokenizer {model.data!r}", False
    yield from _typed_problems(metadata)
    try:
        tokenizer = tokenizer_from_metadata(metadata)
    except FormatError as error:
        yield str(error.where), error.problem, True
        return
    assert tokenizer is not None
    for check in (_tokens, _token_types, _merges, _charsmap):
        yield from check(tokenizer)
    yield from _pre_tokenizer(tokenizer)
    yield from _phi3(metadata, tokenizer)
    yield from _ids(metadata, len(tokenizer.tokens))


def loaded_text(index: int, text: str) -> str:
    """A token's text as llama.cpp has it: cut at a zero byte, and named by its place if nothing is left."""
    return text.partition("\0")[0] or f"[EMPTY_{index}]"


def repeated_tokens(tokens: tuple[str, ...]) -> dict[str, int]:
    """The texts that several tokens have for llama.cpp, which ends the program there, and how many."""
    counts = Counter(loaded_text(i, text) for i, text in enumerate(tokens))
    return {text: count for text, count in counts.items() if count > 1}


def _typed_problems(metadata: Metadata) -> Iterator[Problem]:
    """Arrays whose items llama.cpp reads as one type alone, where gguf-py's readers see no difference."""
    for key, wanted in ((_P + "token_type", ValueType.INT32), (_P + "suppress_tokens", ValueType.INT32)):
        value = metadata.get(key)
        if value is not None and value.type is ValueType.ARRAY and not len(value.items) and value.item is not wanted:
            yield key, f"is an empty array of another type than {wanted.name.lower()}", False
    for key in (_P + "tokens", _P + "merges"):
        value = metadata.get(key)
        if value is not None and value.type is ValueType.ARRAY and value.item is not ValueType.STRING:
            yield key, "is not an array of strings", True


def _tokens(tokenizer: Tokenizer) -> Iterator[Problem]:
    tokens, key = tokenizer.tokens, _P + "tokens"
    if not tokens:
        yield key, "an empty vocabulary", True
    if repeated := repeated_tokens(tokens):
        n = sum(repeated.values()) - len(repeated)
        yield key, f"{n} tokens occur twice, such as {next(iter(repeated))!r}; llama.cpp refuses the file", True
    if (cut := next((i for i, text in enumerate(tokens) if "\0" in text), None)) is not None:
        yield key, f"token {cut} has a zero byte, at which llama.cpp cuts it", True
    if tokenizer.model in ("llama", "t5") and tokenizer.scores is None:
        yield _P + "scores", f"is missing; a {tokenizer.model} tokenizer needs scores", True


def _token_types(tokenizer: Tokenizer) -> Iterator[Problem]:
    key, kind = _P + "token_type", tokenizer.model
    of_bytes = np.flatnonzero(tokenizer.types == TokenType.BYTE)
    if kind == "llama" and len(of_bytes) not in (0, 256):
        yield key, f"{len(of_bytes)} tokens are bytes; a SentencePiece vocabulary has 256 of them, or none", True
    if kind == "bert" and len(of_bytes):
        yield key, f"token {of_bytes[0]} is a byte; llama.cpp refuses a bert vocabulary with bytes", True
    if kind in ("llama", "t5"):
        for i in of_bytes:
            if len(tokenizer.tokens[i].encode("utf-8", "surrogateescape")) < len("<0x"):
                yield key, f"token {i} is a byte, but {tokenizer.tokens[i]!r}; llama.cpp refuses the file", True
                break


def _merges(tokenizer: Tokenizer) -> Iterator[Problem]:
    key = _P + "merges"
    if tokenizer.model in BPE_TOKENIZERS and not tokenizer.merges and tokenizer.pre != _WITHOUT_MERGES:
        yield key, f"is missing or empty; a {tokenizer.model} tokenizer needs merges", True
    for place, merge in enumerate(tokenizer.merges or ()):
        if " " not in merge[1:]:
            yield key, f"entry {place}, {merge!r}, is not a pair", True
            break


def _charsmap(tokenizer: Tokenizer) -> Iterator[Problem]:
    """Of T5: the size of a trie, in four bytes, the trie, then texts."""
    table = tokenizer.precompiled_charsmap
    if tokenizer.model == "t5" and table is not None:
        size = int.from_bytes(table[:4], "little") if len(table) >= 4 else len(table)
        if size + 4 >= len(table):
            yield _P + "precompiled_charsmap", f"its trie does not fit its {len(table)} bytes", True


def _pre_tokenizer(tokenizer: Tokenizer) -> Iterator[Problem]:
    pre = tokenizer.pre
    if tokenizer.model not in BPE_TOKENIZERS or tokenizer.model == "gemma4" or not pre or pre in PRE_TOKENIZERS:
        return
    near = get_close_matches(pre, PRE_TOKENIZERS, n=1)
    yield _P + "pre", f"llama.cpp knows no {pre!r}{f'; did you mean {near[0]}?' if near else ''}", False


def _phi3(metadata: Metadata, tokenizer: Tokenizer) -> Iterator[Problem]:
    name, arch = (metadata.get(key) for key in ("general.name", GENERAL_ARCHITECTURE))
    if name is None or not isinstance(name.data, str) or not _PHI3.search(name.data):
        return
    if _PRE_BEFORE_PHI3.search(tokenizer.pre or "") or (arch is not None and _ARCH_BEFORE_PHI3.search(str(arch.data))):
        return
    missing = [text for text in _OF_PHI3 if text not in tokenizer.tokens]
    if missing:
        problem = f"llama.cpp takes {name.data!r} for a Phi-3 by its name, and refuses one without a token {missing[0]}"
        yield "general.name", problem, False


def _ids(metadata: Metadata, n_tokens: int) -> Iterator[Problem]:
    for key, value in metadata.items():
        if is_token_id(key) or key == _P + "suppress_tokens":
            for token in np.atleast_1d(np.asarray(value.data, object)).tolist():
                if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < n_tokens:
                    yield key, f"{token!r} is not one of {n_tokens} tokens", False
                    break
