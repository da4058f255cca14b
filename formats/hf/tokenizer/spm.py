"""SentencePiece vocabularies: tokenizer.model, or the tokenizer.json made from one.

llama.cpp merges the neighbours whose union has the highest score (src/llama-vocab.cpp, llm_tokenizer_spm); Hugging
Face merges the pair of the lowest rank. The two agree where scores fall as ranks rise.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import TokenizerError
from ...ir import TokenType
from .files import Json, TokenizerFiles, token_text
from .vocabulary import ADDED_SCORE, Vocabulary

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_UNIGRAM, _BPE = 1, 2  # sentencepiece_model.proto, TrainerSpec.ModelType


def load_proto(files: TokenizerFiles) -> Any:
    """The parsed tokenizer.model, or None where there is none or it is of another kind (Llama 3's is tiktoken's)."""
    if files.sentencepiece is None:
        return None
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(files.sentencepiece.read_bytes())
    except DecodeError:
        return None
    return proto if proto.pieces else None


def is_unigram_proto(proto: Any) -> bool:
    return bool(proto.trainer_spec.model_type == _UNIGRAM)


def read_proto(files: TokenizerFiles, proto: Any) -> Vocabulary:
    """tokenizer.model and the tokens added beside it.

    Raises:
        TokenizerError: a model of words or characters.
    """
    if proto.trainer_spec.model_type != _BPE:
        raise TokenizerError(
            "a SentencePiece model that is neither BPE nor Unigram",
            path=files.sentencepiece,
            where="trainer_spec.model_type",
        )
    tokens, scores = {}, {}
    for number, piece in enumerate(proto.pieces):
        kind = TokenType(piece.type)  # sentencepiece's piece types are llama.cpp's token types, number by number
        text = piece.piece.replace("▁", " ") if kind is TokenType.USER_DEFINED else piece.piece
        tokens[number], scores[number] = (text, kind), piece.score
    special = {
        name: number
        for name in ("bos", "eos", "unk", "pad")
        if 0 <= (number := getattr(proto.trainer_spec, f"{name}_id")) < len(proto.pieces)
        and tokens[number][1] in (TokenType.CONTROL, TokenType.UNKNOWN)
    }
    flags = _flags(files, proto.normalizer_spec.add_dummy_prefix)
    return _with_added(files, tokens, scores, special, flags)


def is_sentencepiece(tokenizer_json: Json) -> bool:
    """BPE over pieces with ▁ for a space, bytes as <0xNN>: what transformers makes of a tokenizer.model."""
    model = tokenizer_json["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback")) and not model.get("ignore_merges", False)


def read_json_pieces(files: TokenizerFiles) -> Vocabulary:
    """tokenizer.json alone; scores are made from the merges' ranks.

    llama.cpp's converter (gguf-py, LlamaHfVocab) gives every token -1000 here and so loses the order of the merges.
    """
    assert files.tokenizer is not None
    model = files.tokenizer["model"]
    # transformers 5 writes no unk_token into the model; its class's default stands in
    unknown = model.get("unk_token") or token_text(files.config.get("unk_token")) or "<unk>"
    tokens = {}
    for text, number in model["vocab"].items():
        kind = TokenType.NORMAL
        if text == unknown:
            kind = TokenType.UNKNOWN
        elif _BYTE.fullmatch(text):
            kind = TokenType.BYTE
        elif number in files.added and files.added[number].type is TokenType.CONTROL:
            kind = TokenType.CONTROL
        tokens[int(number)] = (text, kind)
    scores = _scores(tokens, model["merges"])
    special = {"unk": model["vocab"][unknown]} if unknown in model["vocab"] else {}
    return _with_added(files, tokens, scores, special, _flags(files, adds_prefix(files.tokenizer)))


def _scores(tokens: dict[int, tuple[str, TokenType]], merges: list[Any]) -> dict[int, float]:
    """0, -1, -2... over the normal tokens: in id order where the merges' ranks follow it (as tokenizer.model numbers
    its pieces), else in the order of the merges that first make each, the rest below."""
    normal = sorted(number for number, (_, kind) in tokens.items() if kind is TokenType.NORMAL)
    ids = {tokens[number][0]: number for number in normal}
    rank: dict[int, int] = {}
    for i, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if (number := ids.get(left + right)) is not None:
            rank.setdefault(number, i)
    if list(rank) != sorted(rank):
        normal.sort(key=lambda number: (rank.get(number, len(merges)), number))
    scores = dict.fromkeys(tokens, 0.0)
    scores.update({number: -float(i) for i, number in enumerate(normal)})
    first = min(normal, default=0)
    for number, (_, kind) in tokens.items():
        if kind is TokenType.CONTROL and number > first:  # added later: tokenizer.model has its own in front
            scores[number] = ADDED_SCORE
    return scores


def _with_added(
    files: TokenizerFiles,
    tokens: dict[int, tuple[str, TokenType]],
    scores: dict[int, float],
    special: dict[str, int],
    flags: dict[str, bool],
) -> Vocabulary:
    """Added tokens laid over the vocabulary; where they only repeat its own special tokens, those stay as they are."""
    for number, added in files.added.items():
        known = tokens.get(number)
        if known is not None and known[0] == added.text and known[1] in (TokenType.UNKNOWN, TokenType.CONTROL):
            continue
        if known != (added.stored_text, added.type):
            tokens[number], scores[number] = (added.stored_text, added.type), ADDED_SCORE
    return Vocabulary("llama", "default", tokens, scores, special=special, flags=flags)


def _flags(files: TokenizerFiles, adds_prefix: bool) -> dict[str, bool]:
    flags = {} if adds_prefix else {"add_space_prefix": False}
    if files.tokenizer is not None and _prefix_scheme(files.tokenizer) == "first":
        flags["legacy"] = False
    return flags


def adds_prefix(tokenizer_json: Json) -> bool:
    normalizers = _steps(tokenizer_json.get("normalizer"), "normalizers")
    prepends = any(step["type"] == "Prepend" for step in normalizers)
    return prepends or _prefix_scheme(tokenizer_json) in ("first", "always")


def _prefix_scheme(tokenizer_json: Json) -> str | None:
    """Metaspace's prepend_scheme, which older files write as add_prefix_space; None without a Metaspace."""
    for step in _steps(tokenizer_json.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            return str(step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"))
    return None


def _steps(part: Json | None, inner: str) -> list[Json]:
    if not part:
        return []
    if part["type"] == "Sequence":
        return [step for child in part.get(inner, ()) for step in _steps(child, inner)]
    return [part]
