"""Byte-level BPE (llama.cpp's ``gpt2``).

Reads tokenizer.json, or vocab.json with merges.txt; writes tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....errors import TokenizerError
from ....ir import Tokenizer, TokenType
from ..common.documents import bpe_model, ids_by_text, is_padding, tokenizer_document
from ..common.merges import merge_from_gguf, merges_to_gguf
from ..common.vocabulary import Vocabulary
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.numbering import AddedTokens
from ..files.tokenizer_json import BpeModel
from ..splitting.detect import detect_pre
from ..splitting.pre_tokenizers import BY_NAME, MASK_LSTRIP, NAMES

NFC_NOTE = "text is normalized to NFC, but not by llama.cpp: there an accent that is a character of its own stays one"


@dataclass(frozen=True)
class _TokenizerClass:
    """Facts about one of transformers' classes that no file of a checkpoint holds.

    Args:
        pre: the name of the pre-tokenizer that splits as it does.
        special: its special tokens where the files name no others.
    """

    pre: str
    special: Mapping[str, str]


_ROBERTA_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
_GPT2 = _TokenizerClass("gpt-2", dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"))
_ROBERTA = _TokenizerClass("gpt-2", {f"{name}_token": text for name, text in _ROBERTA_NAMES.items()})
_QWEN2 = _TokenizerClass("qwen2", dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"))
# Classes whose folders may hold vocab.json and merges.txt only.
_CLASSES = {
    **dict.fromkeys(("GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "CodeGenTokenizerFast"), _GPT2),
    **dict.fromkeys(("RobertaTokenizer", "RobertaTokenizerFast"), _ROBERTA),
    **dict.fromkeys(("Qwen2Tokenizer", "Qwen2TokenizerFast"), _QWEN2),
}


def read_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary, merges and pre-tokenizer name of a tokenizer.json.

    Args:
        folder: its tokenizer.json has a BPE model.
        pre: the pre-tokenizer's name, or None to find it.

    Raises:
        TokenizerError: llama.cpp has no such pre-tokenizer.
    """
    document, model = folder.document(BpeModel)
    added = folder.added_tokens(model.vocab)
    if pre is None:
        pre = detect_pre(document)
        if pre == "gpt-2" and any(token.text == "<mask>" and token.lstrip for token in added.by_id.values()):
            pre = MASK_LSTRIP[0]
    tokens = {number: (text, TokenType.NORMAL) for text, number in model.vocab.items()}
    normalizes = {"type": "NFC"} in document.normalizer_steps
    return Vocabulary(
        "gpt2",
        pre,
        with_added(tokens, added),
        added,
        merges=merges_to_gguf(model.merges),
        notes=(f"tokenizer.json: {NFC_NOTE}",) if normalizes else (),
    )


def read_vocab_and_merges(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of vocab.json and merges.txt, split as transformers' class for them does.

    Args:
        folder: with both files.
        pre: the pre-tokenizer's name, or None for the class's.

    Raises:
        TokenizerError: damaged files, or ``pre`` is None and the class is unknown.
    """
    vocab = folder.vocab_json
    known = _CLASSES.get(folder.config.tokenizer_class or "")
    if known is None and pre is None:
        raise _unknown_class(folder)
    added = folder.added_tokens(vocab, defaults={} if known is None else known.special)
    tokens = {number: (text, TokenType.NORMAL) for text, number in vocab.items()}
    special: Mapping[str, int] = {}
    flags: Mapping[str, bool] = {}
    if known is not None:
        pre = pre or known.pre
        if known is _ROBERTA and vocab.keys() >= {*_ROBERTA_NAMES.values()}:
            pre = MASK_LSTRIP[0] if pre == known.pre else pre
            special = {name: vocab[text] for name, text in _ROBERTA_NAMES.items()}
            flags = dict.fromkeys(("add_bos_token", "add_eos_token", "add_sep_token", "mask_lstrip"), True)
    tokens = with_added(tokens, added)
    return Vocabulary("gpt2", pre, tokens, added, merges=folder.merges_txt, special=special, flags=flags)


def to_document(tok: Tokenizer) -> Json:
    """The tokenizer.json of a tokenizer, without added tokens and post-processor.

    Raises:
        TokenizerError: there are no merges, or the pre-tokenizer's name is unknown.
    """
    if tok.merges is None:
        raise TokenizerError("byte-level BPE without merges", where="tokenizer.ggml.merges")
    name = tok.pre or "default"
    if name not in BY_NAME:
        raise TokenizerError(
            f"no pre-tokenizer called {name!r} is known here",
            where="tokenizer.ggml.pre",
            hint=f"set it to one of {', '.join(NAMES)}",
        )
    row = BY_NAME[name]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return tokenizer_document(
        normalizer=row.normalizer,
        pre_tokenizer=row.pre_tokenizer,
        post_processor={**byte_level, "trim_offsets": False},
        decoder=byte_level,
        model=bpe_model(
            ids_by_text((i, text) for i, text in enumerate(tok.tokens) if not is_padding(tok, i)),
            map(merge_from_gguf, tok.merges),
            byte_fallback=False,
            ignore_merges=row.ignore_merges,
        ),
    )


def with_added(tokens: Mapping[int, tuple[str, TokenType]], added: AddedTokens) -> dict[int, tuple[str, TokenType]]:
    """The vocabulary with added tokens in their places."""
    return {**tokens, **{number: (token.stored_text, token.type) for number, token in added.by_id.items()}}


def _unknown_class(folder: TokenizerFolder) -> TokenizerError:
    return TokenizerError(
        "vocab.json and merges.txt do not say how text is split, and the class"
        f" {folder.config.tokenizer_class!r} is unknown",
        path=folder.config.path,
        where="tokenizer_class",
        hint=f"save it with its tokenizer.json, or give --pre NAME, one of {', '.join(NAMES[:8])}...",
    )
