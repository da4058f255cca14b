"""WordPiece vocabularies (BERT): tokenizer.json or vocab.txt, and back.

llama.cpp keeps them turned around: a piece that starts a word has ``▁`` before it, one that goes on has lost its
``##`` (conversion/bert.py; src/llama-vocab.cpp, ``llm_tokenizer_wpm_session``).
"""

from __future__ import annotations

from itertools import product
from typing import Any

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .detect import PROBES, split, split_probes
from .files import Json, TokenizerFiles, read_text
from .pieces import content_length
from .vocabulary import Vocabulary

_START, _MORE = "▁", "##"
_SPECIAL = {"unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_PRE = {"type": "BertPreTokenizer"}
# Our flag -> BertNormalizer's field. The last two llama.cpp cannot switch off; the flags are for the way back.
_FIELDS = {
    **{"normalizer_lowercase": "lowercase", "normalizer_strip_accents": "strip_accents"},
    **{"handle_chinese_chars": "handle_chinese_chars", "clean_text": "clean_text"},
}


def is_wordpiece(document: Json) -> bool:
    return bool(document["model"].get("type") == "WordPiece")


def read_wordpiece(files: TokenizerFiles, *, checked: bool) -> Vocabulary:
    """The vocabulary, its tokens in llama.cpp's form, and what the normalizer does as flags.

    Args:
        files: the folder, with tokenizer.json or vocab.txt.
        checked: whether its normalizer and pre_tokenizer must do what llama.cpp does.

    Raises:
        TokenizerError: they do not, or pieces go on with something else than ``##``.
    """
    if files.tokenizer is None:
        lines = read_text(files.folder / "vocab.txt").removesuffix("\n").split("\n")  # some tokens are line separators
        vocab = {text.removesuffix("\r"): i for i, text in enumerate(lines)}
        flags = _flags_of_config(files)
        control = set(_SPECIAL.values()) | files.special_texts
        # BertTokenizer's own post-processor
        flags |= {"add_bos_token": True, "add_eos_token": True, "add_sep_token": False}
    else:
        path, model = files.folder / "tokenizer.json", files.tokenizer["model"]
        if (more := model.get("continuing_subword_prefix", _MORE)) != _MORE:
            raise TokenizerError(f"pieces go on with {more!r}; only '##' is known", path=path, where="model")
        vocab = model.get("vocab")
        if not isinstance(vocab, dict):
            raise TokenizerError("no vocabulary in it", path=path, where="model.vocab")
        flags = _flags_of_normalizer(files.tokenizer, files, checked)
        control = set()
    tokens = {
        int(number): (text, TokenType.CONTROL) if text in control else (phantom(text), TokenType.NORMAL)
        for text, number in vocab.items()
    }
    for number, added in files.added.items():
        tokens[number] = (added.stored_text, added.type)
    special = {name: int(vocab[text]) for name, text in _SPECIAL.items() if text in vocab}
    return Vocabulary("bert", "default", tokens, special=special, flags=flags)


def wordpiece_document(tok: Tokenizer) -> Json:
    """tokenizer.json, but for added tokens and post-processor."""
    n = content_length(tok)
    unk = tok.special.get("unk", 100)  # llama.cpp's default
    vocab = {}
    for i, (text, kind) in enumerate(zip(tok.tokens[:n], tok.types[:n].tolist(), strict=True)):
        vocab[unphantom(text) if kind == TokenType.NORMAL else text] = i
    lowercase = tok.flags.get("normalizer_lowercase", True)  # llama.cpp's default, too
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": _normalizer(
            lowercase,
            tok.flags.get("normalizer_strip_accents"),
            tok.flags.get("handle_chinese_chars", True),
            tok.flags.get("clean_text", True),
        ),
        "pre_tokenizer": _PRE,
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": _MORE, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tok.tokens[unk] if unk < n else "[UNK]",
            "continuing_subword_prefix": _MORE,
            "max_input_chars_per_word": 100,  # transformers' constant; llama.cpp has no limit
            "vocab": vocab,
        },
    }


def phantom(text: str) -> str:
    """BERT's form of a piece -> llama.cpp's."""
    return text[len(_MORE) :] if text.startswith(_MORE) else _START + text


def unphantom(text: str) -> str:
    """llama.cpp's form of a piece -> BERT's."""
    return text[len(_START) :] if text.startswith(_START) and text != _START else _MORE + text


def _normalizer(lowercase: bool, strip_accents: bool | None, chinese: bool, clean: bool) -> Json:
    fields = {"clean_text": clean, "handle_chinese_chars": chinese}
    return {"type": "BertNormalizer", **fields, "strip_accents": strip_accents, "lowercase": lowercase}


def _flags_of_config(files: TokenizerFiles) -> dict[str, bool]:
    fields = {
        "normalizer_lowercase": files.config.get("do_lower_case", True),
        "normalizer_strip_accents": files.config.get("strip_accents"),
        "handle_chinese_chars": files.config.get("tokenize_chinese_chars", True),
    }
    return _told(fields)


def _flags_of_normalizer(document: Json, files: TokenizerFiles, checked: bool) -> dict[str, bool]:
    normalizer, pre_tokenizer = document.get("normalizer"), document.get("pre_tokenizer")
    if normalizer and normalizer.get("type") == "BertNormalizer" and pre_tokenizer == _PRE:
        return _told({flag: normalizer.get(field) for flag, field in _FIELDS.items()})
    return _told(_by_probes(normalizer, pre_tokenizer, files, checked))


def _told(fields: dict[str, Any]) -> dict[str, bool]:
    """The flags worth writing: those that are set, and of the last two, those llama.cpp does otherwise."""
    known = {name: bool(value) for name, value in fields.items() if value is not None}
    return {n: v for n, v in known.items() if n.startswith("normalizer_") or not v}


def _by_probes(
    normalizer: Json | None, pre_tokenizer: Json | None, files: TokenizerFiles, checked: bool
) -> dict[str, bool]:
    """Which BertNormalizer does to probe strings what this tokenizer does."""
    ours = split_probes(normalizer, pre_tokenizer, files.folder / "tokenizer.json")
    choices = {}
    for clean, chinese, lowercase, strip in product((True, False), repeat=4):
        theirs = split(_normalizer(lowercase, strip, chinese, clean), _PRE, PROBES)
        differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        choices[lowercase, strip, chinese, clean] = differing, theirs
    best = min(choices, key=lambda choice: len(choices[choice][0]))
    differing, theirs = choices[best]
    if checked and differing:
        i = min(differing, key=lambda i: len(PROBES[i]))
        raise TokenizerError(
            f"llama.cpp does not split text as this WordPiece tokenizer does: of {len(PROBES)} probes"
            f" {len(differing)} differ, {PROBES[i]!r} becomes {ours[i]} here, {theirs[i]} there",
            path=files.folder / "tokenizer.json",
            where="pre_tokenizer",
            hint="--pre default converts it all the same",
        )
    return dict(zip(_FIELDS, best, strict=True))
