"""Unigram SentencePiece vocabularies (T5, UMT5, XLM-RoBERTa): tokenizer.json or the .model, and back.

llama.cpp runs sentencepiece's normalization itself (src/llama-vocab.cpp, ``llm_tokenizer_ugm``): its table of
replacements, then ``▁`` before the text, and runs of spaces into one where ``remove_extra_whitespaces`` says so.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .detect import PROBES, split_probes
from .files import Json, TokenizerFiles
from .pieces import base_document, content_length, unk_id
from .vocabulary import ADDED_SCORE, PADDING_SCORE, Vocabulary

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "▁"
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")  # XLM-RoBERTa's first ids; its pieces follow one place later
_EXTRA_IDS = 100  # transformers' default for T5


def is_unigram(document: Json) -> bool:
    return bool(document["model"].get("type") == "Unigram")


def read_unigram(files: TokenizerFiles, proto: Any, *, checked: bool) -> Vocabulary:
    """tokenizer.json: it holds the scores, and the table of replacements in its normalizer.

    Args:
        files: the folder.
        proto: the .model beside it, or None; says more of the pieces that both number alike.
        checked: whether its normalizer and pre_tokenizer must do what llama.cpp does.

    Raises:
        TokenizerError: they do not.
    """
    assert files.tokenizer is not None
    document, model = files.tokenizer, files.tokenizer["model"]
    byte_fallback, unk = bool(model.get("byte_fallback")), model.get("unk_id")
    tokens, scores = {}, {}
    for number, (text, score) in enumerate(_listed(files)):
        kind = TokenType.NORMAL
        if number == unk:
            kind = TokenType.UNKNOWN
        elif byte_fallback and _BYTE.fullmatch(text):
            kind = TokenType.BYTE
        elif text == f"[PAD{number}]" and number not in files.added:
            kind, score = TokenType.UNUSED, PADDING_SCORE
        tokens[number], scores[number] = (text, kind), score
    for number, piece in enumerate(proto.pieces if proto is not None else ()):
        if number in tokens and tokens[number][0] == piece.piece:
            scores[number] = piece.score
            if tokens[number][1] is TokenType.NORMAL:
                tokens[number] = (piece.piece, TokenType(piece.type))
    special = {} if unk is None else {"unk": int(unk)}
    charsmap = _charsmap(document.get("normalizer"), files.folder / "tokenizer.json")
    prefix, merge = _spaces(files, document, charsmap, checked)
    flags = {"add_space_prefix": prefix, "remove_extra_whitespaces": merge}
    return _with_added(files, tokens, scores, special, flags, charsmap)


def read_unigram_proto(files: TokenizerFiles, proto: Any) -> Vocabulary:
    """A .model without tokenizer.json: numbered as transformers' class for it numbers its pieces.

    Raises:
        TokenizerError: a class that numbers them in a way of its own (CamemBERT, Pegasus, ...).
    """
    assert files.sentencepiece is not None
    pieces = [(piece.piece, TokenType(piece.type), piece.score) for piece in proto.pieces]
    fairseq = files.sentencepiece.name == "sentencepiece.bpe.model"
    name = str(files.config.get("tokenizer_class") or ("XLMRobertaTokenizer" if fairseq else "T5Tokenizer"))
    if not name.startswith("XLMRoberta" if fairseq else ("T5", "MT5", "Llama", "PreTrained")):
        raise TokenizerError(
            f"how {name} numbers its pieces is in its code",
            path=files.sentencepiece,
            hint="save it with its tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    if fairseq:
        rest = [*pieces[3:], ("<mask>", TokenType.CONTROL, 0.0)]
        pieces = [(text, TokenType.UNKNOWN if text == "<unk>" else TokenType.CONTROL, 0.0) for text in _FAIRSEQ] + rest
    elif name.startswith(("T5", "MT5")) and "tokenizer_class" in files.config:
        n = int(files.config.get("extra_ids", _EXTRA_IDS))
        known = {text for text, _, _ in pieces}
        extra = [f"<extra_id_{i}>" for i in reversed(range(n))]
        pieces += [(text, TokenType.CONTROL, 0.0) for text in extra if text not in known]
    tokens, scores = {}, {}
    for number, (text, kind, score) in enumerate(pieces):
        stored = text.replace(_SPACE, " ") if kind is TokenType.USER_DEFINED else text
        tokens[number], scores[number] = (stored, kind), score
    ids = {text: number for number, (text, _) in tokens.items()}
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    special = {name: ids[text] for name, text in names.items() if text in ids}
    if fairseq:
        special["sep"] = special["eos"]
    normalizer = proto.normalizer_spec
    flags = {
        **{"add_space_prefix": normalizer.add_dummy_prefix, "add_bos_token": fairseq, "add_eos_token": True},
        **{"remove_extra_whitespaces": normalizer.remove_extra_whitespaces},
        **({"add_sep_token": True, "mask_lstrip": True} if fairseq else {"add_sep_token": False}),
    }
    return _with_added(files, tokens, scores, special, flags, normalizer.precompiled_charsmap or None)


def unigram_document(tok: Tokenizer) -> Json:
    """tokenizer.json, but for added tokens and post-processor, that treats text as llama.cpp does."""
    if tok.scores is None:
        raise TokenizerError("a Unigram vocabulary without scores", where="tokenizer.ggml.scores")
    n = content_length(tok)
    types, scores = tok.types[:n].tolist(), tok.scores[:n].tolist()
    lowest = min((score for score, kind in zip(scores, types, strict=True) if kind == TokenType.NORMAL), default=0.0)
    # An unknown character costs ten more than the lowest score: tokenizers counts every row, llama.cpp normal ones.
    scores = [max(score, lowest) for score in scores]
    steps: list[Json] = []
    if tok.precompiled_charsmap is not None:
        charsmap = base64.b64encode(tok.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    merge = tok.flags.get("remove_extra_whitespaces", False)
    prefix = merge or tok.flags.get("add_space_prefix", False)  # merging puts one before every word
    if merge:
        steps += [_replace({"Regex": "^ +| +$"}, ""), _replace({"Regex": " +"}, _SPACE)]
    else:
        steps.append(_replace({"String": " "}, _SPACE))
    if prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    return {
        **base_document(prefix),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "model": {
            "type": "Unigram",
            "unk_id": unk_id(tok),
            "vocab": [[text, score] for text, score in zip(tok.tokens, scores, strict=False)],
            "byte_fallback": types.count(TokenType.BYTE) == 256,
        },
    }


def _listed(files: TokenizerFiles) -> list[tuple[str, float]]:
    assert files.tokenizer is not None
    try:
        return [(str(text), float(score)) for text, score in files.tokenizer["model"]["vocab"]]
    except (KeyError, TypeError, ValueError):
        path = files.folder / "tokenizer.json"
        raise TokenizerError("not a list of pieces and scores", path=path, where="model.vocab") from None


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _with_added(
    files: TokenizerFiles,
    tokens: dict[int, tuple[str, TokenType]],
    scores: dict[int, float],
    special: Mapping[str, int],
    flags: Mapping[str, bool],
    charsmap: bytes | None,
) -> Vocabulary:
    """Added tokens keep the score they have in the vocabulary; the unknown token stays what it is."""
    for number, added in files.added.items():
        if number in tokens and tokens[number][1] is TokenType.UNKNOWN:
            continue
        tokens[number] = (added.stored_text, added.type)
        scores.setdefault(number, ADDED_SCORE)
    return Vocabulary("t5", "default", tokens, scores, special=special, flags=flags, charsmap=charsmap)


def _charsmap(normalizer: Json | None, path: Path) -> bytes | None:
    for step in _steps(normalizer):
        if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            try:
                return base64.b64decode(step["precompiled_charsmap"], validate=True)
            except (TypeError, ValueError):
                raise TokenizerError("not base64", path=path, where="normalizer.precompiled_charsmap") from None
    return None


def _steps(normalizer: Json | None) -> list[Json]:
    if not normalizer:
        return []
    if normalizer.get("type") == "Sequence":
        return [step for child in normalizer.get("normalizers", ()) for step in _steps(child)]
    return [normalizer]


def _spaces(files: TokenizerFiles, document: Json, charsmap: bytes | None, checked: bool) -> tuple[bool, bool]:
    """add_space_prefix and remove_extra_whitespaces, by what becomes of probe strings."""
    path = files.folder / "tokenizer.json"
    words = split_probes(document.get("normalizer"), document.get("pre_tokenizer"), path)
    ours = ["".join(parts) for parts in words]
    table = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()} if charsmap else None
    plain = ["".join(parts) for parts in split_probes(table, None, path)]
    wrong = {}
    for prefix, merge in ((True, True), (True, False), (False, False)):
        theirs = [spaced(text, prefix, merge) for text in plain]
        # Where the library differs from sentencepiece: Metaspace adds no ▁ to a text that starts with a space, and
        # transformers' first converters kept one at the end.
        unlike = [text.endswith(" ") if merge else text.startswith(" ") for text in plain]
        alike = [a == b or odd for a, b, odd in zip(ours, theirs, unlike, strict=True)]
        wrong[prefix, merge] = [i for i, same in enumerate(alike) if not same]
    prefix, merge = min(wrong, key=lambda choice: len(wrong[choice]))
    if checked and (differing := wrong[prefix, merge]):
        i = min(differing, key=lambda i: len(PROBES[i]))
        there = spaced(plain[i], prefix, merge)
        raise TokenizerError(
            f"llama.cpp does not prepare text as this Unigram tokenizer does: of {len(PROBES)} probes"
            f" {len(differing)} differ, {PROBES[i]!r} becomes {ours[i]!r} here, {there!r} there",
            path=path,
            where="normalizer",
            hint="--pre default converts it all the same",
        )
    return prefix, merge


def spaced(text: str, prefix: bool, merge: bool) -> str:
    """What llama.cpp makes of the spaces of a text (``llm_tokenizer_ugm_session::normalize``)."""
    out, inside, prepended = [], False, False
    for char in text:
        if char == " ":
            inside = False
            out.append("" if merge else _SPACE)
            continue
        if not inside and ((prefix and not prepended) or merge):
            out.append(_SPACE)
            prepended = True
        inside = True
        out.append(char)
    return "".join(out)
