"""Byte-level BPE: tokenizer.json, or vocab.json with merges.txt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import TokenizerError
from ...ir import TokenType
from .detect import detect_pre
from .files import Json, TokenizerFiles, read_json, read_text
from .pretokenizers import MASK_LSTRIP, NAMES, SLOW_CLASSES
from .schema import check_ids
from .vocabulary import Vocabulary


def is_byte_level(tokenizer_json: Json) -> bool:
    """Whether text becomes bytes written in GPT-2's alphabet, rather than SentencePiece's pieces."""
    if tokenizer_json["model"].get("type", "BPE") != "BPE":
        return False
    return any(_has_byte_level(tokenizer_json.get(part)) for part in ("pre_tokenizer", "decoder"))


def read_bpe(files: TokenizerFiles, pre: str | None) -> Vocabulary:
    """The vocabulary, merges and pre-tokenizer name (``pre`` overrides what is found).

    Raises:
        TokenizerError: damaged files, or a pre-tokenizer that llama.cpp has not.
    """
    if files.tokenizer is None:
        return _read_slow(files, pre)
    path = files.folder / "tokenizer.json"
    model = files.tokenizer["model"]
    if pre is None:
        pre = detect_pre(files.tokenizer, path)
        if pre == "gpt-2" and any(t.text == "<mask>" and t.lstrip for t in files.added.values()):
            pre = MASK_LSTRIP[0]
    tokens = {int(number): (text, TokenType.NORMAL) for text, number in model["vocab"].items()}
    for number, added in files.added.items():
        tokens[number] = (added.stored_text, added.type)
    return Vocabulary(model="gpt2", pre=pre, tokens=tokens, merges=merges_of_json(model["merges"], path))


def _read_slow(files: TokenizerFiles, pre: str | None) -> Vocabulary:
    vocab = read_json(files.folder / "vocab.json")
    check_ids(vocab, files.folder / "vocab.json")
    found, texts = SLOW_CLASSES.get(str(files.config.get("tokenizer_class")), (None, ()))
    if (pre := pre or found) is None:
        raise _unknown_class(files)
    control = files.special_texts.union(texts)
    tokens = {int(n): (text, TokenType.CONTROL if text in control else TokenType.NORMAL) for text, n in vocab.items()}
    for number, added in files.added.items():
        tokens[number] = (added.stored_text, added.type)
    special: dict[str, int] = {}
    flags: dict[str, bool] = {}
    if "<mask>" in texts and set(texts) <= set(vocab):  # RoBERTa
        pre = MASK_LSTRIP[0] if pre == found else pre
        names = dict(zip(("bos", "eos", "unk", "pad", "mask"), texts, strict=True)) | {"sep": "</s>"}
        special = {name: int(vocab[text]) for name, text in names.items()}
        flags = dict.fromkeys(("add_bos_token", "add_eos_token", "add_sep_token", "mask_lstrip"), True)
    merges = _merges_txt(files.folder / "merges.txt")
    return Vocabulary("gpt2", pre, tokens, merges=merges, special=special, flags=flags)


def merges_of_json(listed: list[str] | list[list[str]], path: Path) -> tuple[str, ...]:
    """``"left right"`` each; since 2024 they come as pairs, whose spaces GGUF writes as U+0120."""
    out = []
    for merge in listed:
        if isinstance(merge, str):
            out.append(merge)
        elif len(merge) == 2:
            out.append(" ".join(part.replace(" ", "\u0120") for part in merge))
        else:
            raise TokenizerError(f"not a pair: {merge!r}", path=path, where="model.merges")
    return tuple(out)


def _merges_txt(path: Path) -> tuple[str, ...]:
    lines = read_text(path).split("\n")
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = []
    for number, line in enumerate(lines):
        parts = line.split()
        if len(parts) not in (0, 2):
            raise TokenizerError(f"not a pair: {line!r}", path=path, where=f"merge {number}")
        if parts:
            merges.append(" ".join(parts))
    return tuple(merges)


def _unknown_class(files: TokenizerFiles) -> TokenizerError:
    name = files.config.get("tokenizer_class")
    return TokenizerError(
        f"vocab.json and merges.txt do not say how text is split, and its class {name!r} is none we know",
        path=files.folder / "tokenizer_config.json",
        where="tokenizer_class",
        hint=f"save it with its tokenizer.json, or give --pre NAME, one of {', '.join(NAMES[:8])}...",
    )


def _has_byte_level(part: Mapping[str, object] | None) -> bool:
    if not part:
        return False
    if part.get("type") == "ByteLevel":
        return True
    children = part.get("pretokenizers") or part.get("decoders") or ()
    assert isinstance(children, (list, tuple))
    return any(_has_byte_level(child) for child in children)
