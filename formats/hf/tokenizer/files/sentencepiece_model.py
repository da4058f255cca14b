"""A SentencePiece model, ``tokenizer.model`` by its most frequent name: pieces with their scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....ir import TokenType
from .json_values import read_bytes

NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# Mistral's, whose version, and that of its images, stand behind the name.
VERSIONED = re.compile(r".*\.model(?:\.(v\d+)(?:m\d+)?)?", re.ASCII)
UNIGRAM, BPE = 1, 2  # sentencepiece_model.proto, TrainerSpec.ModelType


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary. sentencepiece's types are llama.cpp's token types, number by number."""

    text: str
    type: TokenType
    score: float

    @property
    def stored_text(self) -> str:
        """The text as GGUF holds it: llama.cpp looks for user-defined tokens before it turns spaces into ▁."""
        return self.text.replace("▁", " ") if self.type is TokenType.USER_DEFINED else self.text


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model.

    Args:
        path: the file, for messages.
        model_type: ``UNIGRAM``, ``BPE``, or the number of a type without a reader.
        pieces: in id order.
        special: ids by the names bos, eos, unk and pad, where they are pieces.
        adds_space_prefix: whether a ▁ goes before a text.
        removes_extra_spaces: whether runs of spaces become one.
        charsmap: the normalizer's table of replacements, or None.
    """

    path: Path
    model_type: int
    pieces: tuple[Piece, ...]
    special: Mapping[str, int]
    adds_space_prefix: bool
    removes_extra_spaces: bool
    charsmap: bytes | None

    @property
    def is_unigram(self) -> bool:
        """Whether its scores are those of a Unigram model."""
        return self.model_type == UNIGRAM


def read_sentencepiece_model(path: Path) -> SentencePieceModel | None:
    """Read a SentencePiece model; None where the file holds something else, such as tiktoken's ranks (Llama 3).

    Raises:
        TokenizerError: the file cannot be read.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(read_bytes(path))
    except DecodeError:
        return None
    if not proto.pieces:
        return None
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    ids = {name: int(getattr(trainer, f"{name}_id")) for name in ("bos", "eos", "unk", "pad")}
    return SentencePieceModel(
        path=path,
        model_type=int(trainer.model_type),
        pieces=tuple(Piece(piece.piece, TokenType(piece.type), float(piece.score)) for piece in proto.pieces),
        special={name: number for name, number in ids.items() if 0 <= number < len(proto.pieces)},
        adds_space_prefix=bool(normalizer.add_dummy_prefix),
        removes_extra_spaces=bool(normalizer.remove_extra_whitespaces),
        charsmap=bytes(normalizer.precompiled_charsmap) or None,
    )
