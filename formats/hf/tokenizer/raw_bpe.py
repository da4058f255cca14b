"""BPE over characters with ``▁`` for a space, its merges kept (Gemma 4): tokenizer.json, and back.

llama.cpp's ``gemma4`` model runs the merges themselves, line by line, where ``llama`` goes by scores.
"""

from __future__ import annotations

import re

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .bpe import merges_of_json
from .files import AddedToken, Json, TokenizerFiles, token_text
from .pieces import base_document, content_length, unk_id
from .special import first_text
from .spm import adds_prefix
from .vocabulary import ADDED_SCORE, Vocabulary

# Names of pre-tokenizers under which llama.cpp's gpt2 model does the same.
RAW_PRE = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Gemma 4's special tokens that a chat parser must read (conversion/gemma.py): llama.cpp prints user-defined ones.
_VISIBLE = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}


def is_raw_bpe(files: TokenizerFiles) -> bool:
    """Whether merges are better kept than made into scores: no ▁ goes in front, lines are split, bos is added.

    llama.cpp adds bos to such a vocabulary whatever its flag says; no token may cross a line's end.
    """
    assert files.tokenizer is not None
    model = files.tokenizer["model"]
    if not model.get("byte_fallback") or adds_prefix(files.tokenizer):
        return False
    bos = token_text(files.config.get("bos_token")) or token_text(files.special_map.get("bos_token"))
    if bos is None or first_text(files.tokenizer) != bos:
        return False
    return all(not text.strip("\n") for text in model["vocab"] if "\n" in text)


def read_raw_bpe(files: TokenizerFiles) -> Vocabulary:
    assert files.tokenizer is not None
    model = files.tokenizer["model"]
    unknown = model.get("unk_token") or token_text(files.config.get("unk_token")) or "<unk>"
    tokens = {}
    for text, number in model["vocab"].items():
        kind = TokenType.NORMAL
        if text == unknown:
            kind = TokenType.UNKNOWN
        elif _BYTE.fullmatch(text):
            kind = TokenType.BYTE
        tokens[int(number)] = (text, kind)
    for number, added in files.added.items():
        if added.text != unknown:
            tokens[number] = (added.stored_text, _type(added))
    scores = dict.fromkeys(tokens, ADDED_SCORE)  # llama.cpp does not look at them
    special = {"unk": int(model["vocab"][unknown])} if unknown in model["vocab"] else {}
    merges = merges_of_json(model["merges"], files.folder / "tokenizer.json")
    flags = {"add_space_prefix": False, "add_bos_token": True}
    return Vocabulary("gemma4", None, tokens, scores, merges, special, flags)


def raw_bpe_document(tok: Tokenizer) -> Json:
    """tokenizer.json, but for added tokens and post-processor."""
    if tok.merges is None:
        raise TokenizerError("BPE without merges", where="tokenizer.ggml.merges")
    n, unk = content_length(tok), unk_id(tok)
    lines = {"type": "Split", "pattern": {"Regex": "\n+"}, "behavior": "Isolated", "invert": False}
    return {
        **base_document(prefix=False),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": lines,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unk is None else tok.tokens[unk],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tok.tokens[:n])},
            "merges": [list(pair(merge)) for merge in tok.merges],
        },
    }


def pair(merge: str) -> tuple[str, str]:
    """The two parts of a merge; the first may itself begin with a space, so llama.cpp looks from 1 on."""
    left, _, right = merge[1:].partition(" ")
    return merge[0] + left, right


def _type(added: AddedToken) -> TokenType:
    return TokenType.USER_DEFINED if added.text in _VISIBLE else added.type
