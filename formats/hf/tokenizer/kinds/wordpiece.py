"""WordPiece (llama.cpp's ``bert``).

Reads tokenizer.json or vocab.txt; writes tokenizer.json.

llama.cpp marks the other pieces: one that starts a word has ``▁`` before it, one inside a word has lost its ``##``
(conversion/bert.py; src/llama-vocab.cpp, ``llm_tokenizer_wpm_session``).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from ....errors import TokenizerError
from ....ir import Tokenizer, TokenType
from ..common.documents import content_length, ids_by_text, tokenizer_document
from ..common.vocabulary import Vocabulary
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.tokenizer_json import TokenizerJson, WordPieceModel
from ..splitting.probes import PROBES, differing_probes, split, split_probes

_START, _CONTINUING = "▁", "##"
_SPECIAL = {"unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_PRE_TOKENIZER: Json = {"type": "BertPreTokenizer"}
# Our flag -> BertNormalizer's field. llama.cpp cannot switch off the last two; the flags keep them for a checkpoint
# that is written again.
_FIELDS = {
    "normalizer_lowercase": "lowercase",
    "normalizer_strip_accents": "strip_accents",
    "handle_chinese_chars": "handle_chinese_chars",
    "clean_text": "clean_text",
}


def read_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of a tokenizer.json in llama.cpp's form, with what its normalizer does as flags.

    Args:
        folder: its tokenizer.json has a WordPiece model.
        pre: None if normalizer and pre-tokenizer must do what llama.cpp does.

    Raises:
        TokenizerError: they do something else, or pieces that do not start a word have another prefix than ``##``.
    """
    document, model = folder.document(WordPieceModel)
    if model.continuing_prefix != _CONTINUING:
        problem = f"pieces inside a word start with {model.continuing_prefix!r}; only '##' is known"
        raise TokenizerError(problem, path=document.path, where="model")
    flags = _flags_of_normalizer(document, checked=pre is None)
    return _vocabulary(folder, model.vocab, flags, defaults={})


def read_vocab_txt(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of vocab.txt in llama.cpp's form, with what BertTokenizer does as flags.

    Args:
        folder: with vocab.txt.
        pre: ignored.
    """
    for key in ("do_lower_case", "tokenize_chinese_chars"):
        if getattr(folder.config, key) is None:
            raise TokenizerError("null, where BertTokenizer needs true or false", path=folder.config.path, where=key)
    fields = {
        "normalizer_lowercase": folder.config.do_lower_case,
        "normalizer_strip_accents": folder.config.strip_accents,
        "handle_chinese_chars": folder.config.tokenize_chinese_chars,
    }
    around = {"add_bos_token": True, "add_eos_token": True, "add_sep_token": False}  # by BertTokenizer's code
    defaults = {f"{name}_token": text for name, text in _SPECIAL.items() if name not in ("bos", "eos")}
    defaults["cls_token"] = _SPECIAL["bos"]
    return _vocabulary(folder, folder.vocab_txt, _flags(fields) | around, defaults)


def to_document(tok: Tokenizer) -> Json:
    """The tokenizer.json of a tokenizer, without added tokens and post-processor."""
    n = content_length(tok)
    unk = tok.special.get("unk", 100)  # llama.cpp's default
    kinds = zip(tok.tokens[:n], tok.types[:n].tolist(), strict=True)
    pieces = [piece_from_gguf(text) if kind == TokenType.NORMAL else text for text, kind in kinds]
    return tokenizer_document(
        normalizer=_normalizer(
            tok.flags.get("normalizer_lowercase", True),  # llama.cpp's default, too
            tok.flags.get("normalizer_strip_accents"),
            tok.flags.get("handle_chinese_chars", True),
            tok.flags.get("clean_text", True),
        ),
        pre_tokenizer=_PRE_TOKENIZER,
        decoder={"type": "WordPiece", "prefix": _CONTINUING, "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": tok.tokens[unk] if unk < n else "[UNK]",
            "continuing_subword_prefix": _CONTINUING,
            "max_input_chars_per_word": 100,  # transformers' constant; llama.cpp has no limit
            "vocab": ids_by_text(enumerate(pieces)),
        },
    )


def piece_to_gguf(piece: str) -> str:
    """llama.cpp's form of one of BERT's pieces.

    Example:
        >>> piece_to_gguf("un"), piece_to_gguf("##able")
        ('▁un', 'able')
    """
    return piece[len(_CONTINUING) :] if piece.startswith(_CONTINUING) else _START + piece


def piece_from_gguf(piece: str) -> str:
    """BERT's form of one of llama.cpp's pieces.

    Example:
        >>> piece_from_gguf("▁un"), piece_from_gguf("able")
        ('un', '##able')
    """
    return piece[len(_START) :] if piece.startswith(_START) and piece != _START else _CONTINUING + piece


def _vocabulary(
    folder: TokenizerFolder, vocab: Mapping[str, int], flags: Mapping[str, bool], defaults: Mapping[str, str]
) -> Vocabulary:
    added = folder.added_tokens(vocab, defaults=defaults)
    tokens = {number: (piece_to_gguf(text), TokenType.NORMAL) for text, number in vocab.items()}
    tokens |= {number: (token.stored_text, token.type) for number, token in added.by_id.items()}
    special = {name: vocab[text] for name, text in _SPECIAL.items() if text in vocab}
    return Vocabulary("bert", "default", tokens, added, special=special, flags=flags)


def _normalizer(lowercase: bool, strip_accents: bool | None, chinese: bool, clean: bool) -> Json:
    fields = {"clean_text": clean, "handle_chinese_chars": chinese}
    return {"type": "BertNormalizer", **fields, "strip_accents": strip_accents, "lowercase": lowercase}


def _flags_of_normalizer(document: TokenizerJson, *, checked: bool) -> dict[str, bool]:
    normalizer = document.normalizer
    if normalizer and normalizer["type"] == "BertNormalizer" and document.pre_tokenizer == _PRE_TOKENIZER:
        return _flags({flag: normalizer.get(field) for flag, field in _FIELDS.items()})
    return _flags(_by_probes(document, checked=checked))


def _flags(fields: Mapping[str, object]) -> dict[str, bool]:
    """The flags to write: those that are set, and of the last two, those in which llama.cpp differs."""
    known = {name: bool(value) for name, value in fields.items() if value is not None}
    return {name: value for name, value in known.items() if name.startswith("normalizer_") or not value}


def _by_probes(document: TokenizerJson, *, checked: bool) -> dict[str, bool]:
    """Find the options of a BertNormalizer that does to probe strings what this tokenizer does."""
    ours = split_probes(document.normalizer, document.pre_tokenizer, document.path)
    choices = {}
    for clean, chinese, lowercase, strip in product((True, False), repeat=4):
        theirs = split(_normalizer(lowercase, strip, chinese, clean), _PRE_TOKENIZER, PROBES)
        choices[lowercase, strip, chinese, clean] = differing_probes(ours, theirs), theirs
    best = min(choices, key=lambda choice: len(choices[choice][0]))
    differing, theirs = choices[best]
    if checked and differing:
        i = differing[0]
        raise TokenizerError(
            f"llama.cpp does not split text as this WordPiece tokenizer does: of {len(PROBES)} probes"
            f" {len(differing)} differ, {PROBES[i]!r} becomes {ours[i]} here, {theirs[i]} there",
            path=document.path,
            where="pre_tokenizer",
            hint="--pre default converts it all the same",
        )
    return dict(zip(_FIELDS, best, strict=True))
