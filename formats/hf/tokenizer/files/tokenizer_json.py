"""tokenizer.json, the file of the tokenizers library: what is done to a text, and the vocabulary of one of its models.

Normalizer, pre-tokenizer and decoder are kept as JSON beside their flattened steps, because the tokenizers library
itself is asked what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....errors import TokenizerError
from .added_tokens import AddedToken, numbered_token
from .json_values import (
    Fields,
    Json,
    Unexpected,
    distinct_ids,
    flag,
    json_list,
    json_object,
    mapping_of,
    optional,
    read_json,
    score,
    text,
    token_id,
    tuple_of,
)
from .steps import Step, TemplateStep, flat_steps, step, template_steps
from .tokenizers_check import check_by_library

Merge = str | tuple[str, str]  # "left right" until 2024, then a pair, whose parts may hold spaces


@dataclass(frozen=True)
class BpeModel:
    """A BPE model.

    Args:
        vocab: text -> id.
        merges: in rank order.
        unk_token: the text of the unknown token.
        byte_fallback: whether characters outside the vocabulary become ``<0xNN>`` tokens.
        ignore_merges: whether a word in the vocabulary is a token whatever the merges say.
        document: the model's JSON, for the tokenizers library.
    """

    vocab: dict[str, int]
    merges: tuple[Merge, ...]
    unk_token: str | None
    byte_fallback: bool
    ignore_merges: bool
    document: Json


@dataclass(frozen=True)
class UnigramModel:
    """A Unigram model.

    Args:
        pieces: (text, score) in id order.
        unk_id: the id of the unknown token.
        byte_fallback: whether characters outside the vocabulary become ``<0xNN>`` tokens.
    """

    pieces: tuple[tuple[str, float], ...]
    unk_id: int | None
    byte_fallback: bool


@dataclass(frozen=True)
class WordPieceModel:
    """A WordPiece model.

    Args:
        vocab: text -> id.
        continuing_prefix: what stands before pieces that do not start a word.
    """

    vocab: dict[str, int]
    continuing_prefix: str | None


Model = BpeModel | UnigramModel | WordPieceModel


@dataclass(frozen=True)
class TokenizerJson:
    """tokenizer.json.

    Args:
        path: the file, for messages.
        normalizer: the JSON of what is done to a text first, or None.
        pre_tokenizer: the JSON of how it is split into words then, or None.
        decoder_steps: how tokens become text again.
        post_processor: the steps that add tokens around a text, or None where there is no post-processor.
        added_tokens: (id, token).
        model_type: what the file calls its model; None where it does not, as in files of before 2020.
        model: the vocabulary and what turns words into its tokens; None for a type without a reader.
    """

    path: Path
    normalizer: Step | None
    pre_tokenizer: Step | None
    decoder_steps: tuple[Step, ...]
    post_processor: tuple[TemplateStep, ...] | None
    added_tokens: tuple[tuple[int, AddedToken], ...]
    model_type: str | None
    model: Model | None

    @property
    def normalizer_steps(self) -> tuple[Step, ...]:
        """The steps of the normalizer, Sequences resolved."""
        return flat_steps(self.normalizer, "normalizers")

    @property
    def pre_tokenizer_steps(self) -> tuple[Step, ...]:
        """The steps of the pre-tokenizer, Sequences resolved."""
        return flat_steps(self.pre_tokenizer, "pretokenizers")

    @property
    def is_byte_level(self) -> bool:
        """Whether it is a BPE of bytes written in GPT-2's alphabet."""
        steps = (*self.pre_tokenizer_steps, *self.decoder_steps)
        return isinstance(self.model, BpeModel) and any(found["type"] == "ByteLevel" for found in steps)

    @property
    def note(self) -> str | None:
        """A line about what llama.cpp has no counterpart for and what a model in use does not need."""
        if not isinstance(self.model, BpeModel) or not self.model.document.get("dropout"):
            return None
        dropout = self.model.document["dropout"]
        return f"tokenizer.json: model.dropout {dropout}, by which merges fail at random, is ignored"

    @property
    def has_pieces(self) -> bool:
        """Whether it is what transformers makes of a SentencePiece BPE: pieces with ▁ for a space, bytes ``<0xNN>``."""
        if self.model_type is None or not isinstance(self.model, BpeModel):
            return False
        return self.model.byte_fallback and not self.model.ignore_merges

    @property
    def prepend_scheme(self) -> str | None:
        """Metaspace's prepend_scheme, which older files write as add_prefix_space; None without a Metaspace."""
        for found in self.pre_tokenizer_steps:
            if found["type"] == "Metaspace":
                return str(found.get("prepend_scheme", "always" if found.get("add_prefix_space", True) else "never"))
        return None

    @property
    def adds_space_prefix(self) -> bool:
        """Whether a ▁ goes before the text."""
        prepends = any(found["type"] == "Prepend" for found in self.normalizer_steps)
        return prepends or self.prepend_scheme in ("first", "always")

    @property
    def first_token(self) -> str | None:
        """The text of the token that a TemplateProcessing puts before a text."""
        for found in self.post_processor or ():
            if found.type == "TemplateProcessing" and found.single:
                return found.single[0].token
        return None

    @property
    def last_token(self) -> str | None:
        """The text of the token that a TemplateProcessing puts after a text."""
        templates = [found.single for found in self.post_processor or () if found.type == "TemplateProcessing"]
        return templates[-1][-1].token if templates and templates[-1] and len(templates[-1]) > 1 else None


def read_tokenizer_json(path: Path) -> TokenizerJson | None:
    """Read tokenizer.json; None where it is missing.

    Raises:
        TokenizerError: it is not JSON, or a value is not of the type and range that the tokenizers library writes.
    """
    if not path.is_file():
        return None
    document = read_json(path)
    parsed = parse_tokenizer_json(document, path)
    if parsed.model is not None:
        check_by_library(document, path)
    return parsed


def parse_tokenizer_json(document: Json, path: Path) -> TokenizerJson:
    """The typed form of tokenizer.json's object.

    Raises:
        TokenizerError: it has no model, or a value is not of the type and range that the tokenizers library writes.

    Example:
        >>> document = {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "un": 1}}}
        >>> parse_tokenizer_json(document, Path("tokenizer.json")).model
        WordPieceModel(vocab={'[UNK]': 0, 'un': 1}, continuing_prefix='##')
    """
    fields = Fields(document, path)
    normalizer = fields.take("normalizer", optional(step))
    pre_tokenizer = fields.take("pre_tokenizer", optional(step))
    decoder = fields.take("decoder", optional(step))
    post_processor = fields.take("post_processor", optional(step))
    added_tokens = fields.take("added_tokens", optional(tuple_of(numbered_token)))
    head = fields.take("model", optional(_model_head))
    if head is None:
        raise TokenizerError("no 'model' in it", path=path, hint="download it again")
    return TokenizerJson(
        path=path,
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        decoder_steps=flat_steps(decoder, "decoders"),
        post_processor=None if post_processor is None else template_steps(post_processor),
        added_tokens=added_tokens or (),
        model_type=head.type,
        model=_parse_model(head, path),
    )


@dataclass(frozen=True)
class _ModelHead:
    """What models of every type have."""

    document: Json
    type: str | None
    unk_token: str | None
    unk_id: int | None


def _model_head(value: object) -> _ModelHead:
    document = json_object(value)
    kind, unk_token = (optional(text)(document.get(key)) for key in ("type", "unk_token"))
    return _ModelHead(document, kind, unk_token, optional(token_id)(document.get("unk_id")))


def _parse_model(head: _ModelHead, path: Path) -> Model | None:
    fields = Fields(head.document, path, "model.")
    if head.type == "BPE" or "type" not in head.document:
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if fields.take(key, optional(text)):
                raise TokenizerError("llama.cpp's BPE has no such thing", path=path, where=f"model.{key}")
        vocab = fields.take("vocab", mapping_of(token_id))
        return BpeModel(
            vocab=distinct_ids(vocab, path, "model.vocab"),
            merges=_known_merges(fields.take("merges", tuple_of(_merge)), vocab, path),
            unk_token=head.unk_token,
            byte_fallback=bool(fields.take("byte_fallback", optional(flag))),
            ignore_merges=bool(fields.take("ignore_merges", optional(flag))),
            document=head.document,
        )
    if head.type == "Unigram":
        pieces = fields.take("vocab", tuple_of(_piece))
        if head.unk_id is not None and head.unk_id >= len(pieces):
            raise TokenizerError(f"{head.unk_id} is beyond its vocabulary", path=path, where="model.unk_id")
        return UnigramModel(pieces, head.unk_id, bool(fields.take("byte_fallback", optional(flag))))
    if head.type == "WordPiece":
        vocab = distinct_ids(fields.take("vocab", mapping_of(token_id)), path, "model.vocab")
        return WordPieceModel(vocab, fields.take("continuing_subword_prefix", optional(text), missing="##"))
    return None


def _known_merges(merges: tuple[Merge, ...], vocab: Mapping[str, int], path: Path) -> tuple[Merge, ...]:
    """The merges, whose parts and whose results the vocabulary has."""
    for number, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise TokenizerError(
                f"{left!r} and {right!r}, or what they make, are not in its vocabulary",
                path=path,
                where=f"model.merges[{number}]",
                hint="download it again",
            )
    return merges


def _merge(value: object) -> Merge:
    if isinstance(value, str) and " " in value:
        return value
    if isinstance(value, list) and list(map(type, value)) == [str, str]:  # quicker than `text`, for half a million
        return value[0], value[1]
    raise Unexpected


def _piece(value: object) -> tuple[str, float]:
    items = json_list(value)
    if len(items) != 2:
        raise Unexpected
    return text(items[0]), score(items[1])
