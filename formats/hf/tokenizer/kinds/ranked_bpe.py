"""Byte-level BPE whose merges are said by ranks (llama.cpp's ``gpt2``): tiktoken's files and tekken.json.

tiktoken merges any two neighbours whose bytes together have a rank, the lowest rank first. A token is only ever made of
the two parts that this leaves of its own bytes, so one merge for each token is all that there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ....byte_alphabet import in_alphabet
from ....errors import TokenizerError
from ....ir import TokenType
from ..common.vocabulary import Vocabulary
from ..files.added_tokens import AddedToken
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.numbering import AddedTokens
from ..files.ranks import read_ranks, read_tekken
from ..files.tokenizer_json import parse_tokenizer_json
from ..splitting.detect import detect_pre
from ..splitting.pre_tokenizers import BY_NAME, NAMES
from .byte_level_bpe import NFC_NOTE, with_added


@dataclass(frozen=True)
class _TokenizerClass:
    """Facts about a class that is published with its ranks, and that no file of data holds.

    Args:
        pre: the name of the pre-tokenizer that splits as it does.
        special: its special tokens' texts, numbered after the ranks; ``{id}`` is the number.
        named: the texts of its special tokens by llama.cpp's short names, where the files name no others.
    """

    pre: str
    special: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)


_HY_NAMES = {"bos": "<|bos|>", "eos": "<|eos|>", "pad": "<|pad|>"}
_CLASSES = {
    # tokenization_kimi.py
    "TikTokenTokenizer": _TokenizerClass("kimi-k2", ("<|reserved_token_{id}|>",) * 256),
    # tokenization_qwen.py
    "QWenTokenizer": _TokenizerClass(
        "qwen2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
        dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"),
    ),
    # tokenization_hy.py
    "HYTokenizer": _TokenizerClass(
        "hunyuan",
        ("<|endoftext|>", "<|startoftext|>", *_HY_NAMES.values(), *(f"<|extra_{i}|>" for i in range(205))),
        _HY_NAMES,
    ),
}
_TEKKEN_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


def read_tiktoken(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of tiktoken's ranks, split as the class that is published with them does.

    Args:
        folder: with such a file; special tokens of other texts than the class's are in tokenizer_config.json's
            ``added_tokens_decoder``.
        pre: the pre-tokenizer's name, or None for the class's.

    Raises:
        TokenizerError: a damaged file, or ``pre`` is None and the class is unknown.
    """
    path = folder.ranks_path
    assert path is not None
    known = _CLASSES.get(folder.config.tokenizer_class or "")
    if known is None:
        if pre is None:
            raise TokenizerError(
                f"{path.name} does not say how text is split, and the class {folder.config.tokenizer_class!r} is"
                " unknown",
                path=folder.config.path,
                where="tokenizer_class",
                hint=f"save it with its tokenizer.json, or give --pre NAME, one of {', '.join(NAMES[:8])}...",
            )
        known = _TokenizerClass(pre, ())
    pre = pre or known.pre
    ranks = read_ranks(path)
    vocab = {in_alphabet(token): rank for token, rank in ranks.items()}
    special = {number: text.format(id=number) for number, text in enumerate(known.special, len(ranks))}
    declared = folder.config.added_tokens_decoder or {}
    special |= {number: token.text for number, token in declared.items() if number in special}
    added = folder.added_tokens({**vocab, **{text: number for number, text in special.items()}}, ids_stand=True)
    own = {number: AddedToken(text, special=True) for number, text in special.items()}
    undeclared = added.only_named | (own.keys() - declared.keys())
    added = replace(added, by_id={**own, **added.by_id}, only_named=undeclared)
    merges, whole = _merges(ranks)
    notes = [f"{path.name}: {NFC_NOTE}"] if BY_NAME[pre].nfc else []
    if whole and not BY_NAME[pre].ignore_merges:
        notes.append(
            f"{path.name}: no merges make {len(whole)} of its tokens, such as {whole[0]!r}: llama.cpp does"
            " not find these"
        )
    ids = {token.text: number for number, token in added.by_id.items()}
    return Vocabulary(
        "gpt2",
        pre,
        with_added({rank: (text, TokenType.NORMAL) for text, rank in vocab.items()}, added),
        added,
        merges=tuple(merges),
        special={name: ids[text] for name, text in known.named.items() if text in ids},
        notes=tuple(notes),
    )


def read_tekken_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of tekken.json: special tokens, then ranks.

    Args:
        folder: with tekken.json.
        pre: the pre-tokenizer's name, or None to find it.

    Raises:
        TokenizerError: a damaged file, or llama.cpp has no such pre-tokenizer.
    """
    tekken = read_tekken(folder.path / "tekken.json")
    merges, _ = _merges(tekken.ranks)
    vocab = {in_alphabet(token): rank + len(tekken.special) for token, rank in tekken.ranks.items()}
    if pre is None:
        split: Json = {"type": "Split", "pattern": {"Regex": tekken.pattern}, "behavior": "Isolated", "invert": False}
        byte_level: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        model: Json = {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True}
        splits: Json = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        pre = detect_pre(parse_tokenizer_json({"pre_tokenizer": splits, "model": model}, tekken.path))
    added = AddedTokens({i: AddedToken(text, special=True) for i, text in enumerate(tekken.special)}, frozenset(), ())
    return Vocabulary(
        "gpt2",
        pre,
        with_added({number: (text, TokenType.NORMAL) for text, number in vocab.items()}, added),
        added,
        merges=tuple(merges),
        special={name: tekken.special.index(text) for name, text in _TEKKEN_NAMES.items() if text in tekken.special},
        flags={"add_bos_token": True, "add_eos_token": False},
    )


def _merges(ranks: Mapping[bytes, int]) -> tuple[list[str], list[bytes]]:
    """The merge that makes each token, in the order of ranks, and the tokens that none makes."""
    merges, whole = [], []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) == 1:
            continue
        if (parts := _parts(ranks, token)) is None:
            whole.append(token)
        else:
            merges.append(" ".join(map(in_alphabet, parts)))
    return merges, whole


def _parts(ranks: Mapping[bytes, int], token: bytes) -> list[bytes] | None:
    """The two parts that merging leaves of a token's bytes before it makes the token, or None where it stops."""
    parts, none = [token[i : i + 1] for i in range(len(token))], len(ranks)
    while len(parts) > 2:
        found = [ranks.get(left + right, none) for left, right in pairwise(parts)]
        lowest = min(found)
        if lowest == none:
            return None
        i = found.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
