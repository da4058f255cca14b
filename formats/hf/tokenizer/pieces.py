"""A SentencePiece vocabulary written back: as tokenizer.json's model and as a tokenizer.model."""

from __future__ import annotations

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .files import Json

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2  # sentencepiece_model.proto, TrainerSpec.ModelType


def pieces_model(tok: Tokenizer) -> Json:
    """tokenizer.json, but for added tokens and post-processor, as transformers makes it of a tokenizer.model."""
    n = content_length(tok)
    unk = unk_id(tok)
    prefix = tok.flags.get("add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizer: Json | None = replace
    pre_tokenizer: Json | None = None
    if prefix and tok.flags.get("legacy", True):
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, replace]}
    elif prefix:
        normalizer = None
        pre_tokenizer = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
    return {
        **base_document(prefix),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
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
            "merges": _merges(tok),
        },
    }


def base_document(prefix: bool) -> Json:
    """tokenizer.json of pieces with ▁ for a space, but for normalizer, pre_tokenizer and model.

    Args:
        prefix: whether a ▁ goes before the text, to be taken off again by the decoder.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _decoder(prefix),
    }


def pieces_proto(tok: Tokenizer) -> bytes:
    """tokenizer.model: every token as a piece, added ones too, in id order."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    n, unk = content_length(tok), unk_id(tok)
    assert tok.scores is not None
    for i, (text, kind, score) in enumerate(
        zip(tok.tokens[:n], tok.types[:n].tolist(), tok.scores[:n].tolist(), strict=True)
    ):
        if i == unk:
            kind = TokenType.UNKNOWN  # sentencepiece wants one, and only one
        elif kind == TokenType.UNKNOWN:
            kind = TokenType.CONTROL
        elif kind == TokenType.USER_DEFINED:
            text = text.replace(" ", _SPACE)
        proto.pieces.add(piece=text, score=score, type=kind)
    spec = proto.trainer_spec
    spec.model_type, spec.vocab_size = _UNIGRAM if tok.model == "t5" else _BPE, n
    spec.byte_fallback = int((tok.types == TokenType.BYTE).sum()) == 256
    ids = {"unk": unk, **{name: tok.special.get(name) for name in ("bos", "eos", "pad")}}
    for name, number in ids.items():
        setattr(spec, f"{name}_id", -1 if number is None else number)
        if number is not None:
            setattr(spec, f"{name}_piece", tok.tokens[number])
    normal = proto.normalizer_spec
    normal.name, normal.escape_whitespaces = "identity", True
    normal.add_dummy_prefix = tok.flags.get("add_space_prefix", tok.model == "llama")
    normal.remove_extra_whitespaces = tok.flags.get("remove_extra_whitespaces", False)
    if tok.precompiled_charsmap is not None:
        normal.name, normal.precompiled_charsmap = "user_defined", tok.precompiled_charsmap
    data: bytes = proto.SerializeToString()
    return data


def _merges(tok: Tokenizer) -> list[list[str]]:
    """Every way to make a piece of two others, the highest score first, as transformers derives them."""
    if tok.scores is None:
        raise TokenizerError("a SentencePiece vocabulary without scores", where="tokenizer.ggml.scores")
    scores = tok.scores.tolist()
    normal = [i for i, kind in enumerate(tok.types.tolist()) if kind == TokenType.NORMAL]
    ids = {tok.tokens[i]: i for i in normal}
    merges: list[list[str]] = []
    for i in sorted(normal, key=lambda i: -scores[i]):
        text = tok.tokens[i]
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = [(left, right) for left, right in halves if left in ids and right in ids]
        merges += [list(pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return merges


def _decoder(prefix: bool) -> Json:
    steps: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def content_length(tok: Tokenizer) -> int:
    """Tokens up to the last that is not padding; padding between them stays."""
    n = len(tok.tokens)
    while n and tok.types[n - 1] == TokenType.UNUSED and tok.tokens[n - 1] == f"[PAD{n - 1}]":
        n -= 1
    return n


def unk_id(tok: Tokenizer) -> int | None:
    """The unknown token's id. For want of a key llama.cpp's is 0, or in a Unigram 2 (llama-vocab.cpp, load)."""
    unk = tok.special.get("unk", 2 if tok.model == "t5" else 0)
    return unk if unk < len(tok.tokens) and tok.types[unk] in (TokenType.UNKNOWN, TokenType.CONTROL) else None
