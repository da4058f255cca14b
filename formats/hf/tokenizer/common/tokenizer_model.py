"""The tokenizer.model of a ``Tokenizer``, as sentencepiece writes it."""

from __future__ import annotations

from ....ir import Tokenizer, TokenType
from ..files.sentencepiece_model import BPE, UNIGRAM
from .documents import SPACE, content_length, unknown_id


def sentencepiece_bytes(tok: Tokenizer) -> bytes:
    """The bytes of a SentencePiece model: every token as a piece, added ones too, in id order.

    Args:
        tok: of model ``llama`` or ``t5``, with scores.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    n, unk = content_length(tok), unknown_id(tok)
    assert tok.scores is not None
    for i, (text, kind, score) in enumerate(
        zip(tok.tokens[:n], tok.types[:n].tolist(), tok.scores[:n].tolist(), strict=True)
    ):
        if i == unk:
            kind = TokenType.UNKNOWN  # sentencepiece needs one, and only one
        elif kind == TokenType.UNKNOWN:
            kind = TokenType.CONTROL
        elif kind == TokenType.USER_DEFINED:
            text = text.replace(" ", SPACE)
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer = proto.trainer_spec
    trainer.model_type, trainer.vocab_size = UNIGRAM if tok.model == "t5" else BPE, n
    trainer.byte_fallback = int((tok.types == TokenType.BYTE).sum()) == 256
    ids = {"unk": unk, **{name: tok.special.get(name) for name in ("bos", "eos", "pad")}}
    for name, number in ids.items():
        setattr(trainer, f"{name}_id", -1 if number is None else number)
        if number is not None:
            setattr(trainer, f"{name}_piece", tok.tokens[number])
    normalizer = proto.normalizer_spec
    normalizer.name, normalizer.escape_whitespaces = "identity", True
    normalizer.add_dummy_prefix = tok.flags.get("add_space_prefix", tok.model == "llama")
    normalizer.remove_extra_whitespaces = tok.flags.get("remove_extra_whitespaces", False)
    if tok.precompiled_charsmap is not None:
        normalizer.name, normalizer.precompiled_charsmap = "user_defined", tok.precompiled_charsmap
    data: bytes = proto.SerializeToString()
    return data
