"""SentencePiece BPE (llama.cpp's ``llama``).

Reads tokenizer.model, or the tokenizer.json made from one; writes that tokenizer.json.

llama.cpp merges the neighbours whose union has the highest score (src/llama-vocab.cpp, llm_tokenizer_spm); Hugging
Face merges the pair of the lowest rank. The two agree where scores fall as ranks rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....errors import TokenizerError
from ....ir import Tokenizer, TokenType
from ..common.documents import (
    SPACE,
    bpe_model,
    content_length,
    ids_by_text,
    piece_decoder,
    tokenizer_document,
    unknown_text,
)
from ..common.merges import merged_text
from ..common.pieces import piece_type, unknown_piece
from ..common.vocabulary import ADDED_SCORE, Vocabulary
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.numbering import AddedTokens
from ..files.sentencepiece_model import BPE
from ..files.tokenizer_json import BpeModel, Merge


def read_model(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of tokenizer.model, and the tokens added beside it.

    Args:
        folder: with a SentencePiece model.
        pre: ignored.

    Raises:
        TokenizerError: it is a model of words or characters.
    """
    found = folder.sentencepiece
    assert found is not None
    if found.model_type != BPE:
        raise TokenizerError(
            "a SentencePiece model that is neither BPE nor Unigram", path=found.path, where="trainer_spec.model_type"
        )
    tokens = {number: (piece.stored_text, piece.type) for number, piece in enumerate(found.pieces)}
    scores = {number: piece.score for number, piece in enumerate(found.pieces)}
    special = {
        name: number
        for name, number in found.special.items()
        if tokens[number][1] in (TokenType.CONTROL, TokenType.UNKNOWN)
    }
    if folder.tokenizer_json is None:
        added = folder.added_tokens({piece.text: number for number, piece in enumerate(found.pieces)}, ids_stand=True)
    else:
        added = folder.added_tokens(folder.document(BpeModel)[1].vocab)
    return _vocabulary(folder, added, tokens, scores, special, adds_prefix=found.adds_space_prefix)


def read_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of a tokenizer.json without its tokenizer.model, with scores made from the merges' ranks.

    llama.cpp's converter (gguf-py, LlamaHfVocab) gives every token -1000 here and loses the order of the merges.

    Args:
        folder: its tokenizer.json ``has_pieces``.
        pre: ignored.
    """
    document, model = folder.document(BpeModel)
    added, unknown = folder.added_tokens(model.vocab), unknown_piece(folder, model)
    tokens = {}
    for text, number in model.vocab.items():
        kind = piece_type(text, unknown)
        token = added.by_id.get(number)
        if kind is TokenType.NORMAL and token is not None and token.type is TokenType.CONTROL:
            kind = TokenType.CONTROL
        tokens[number] = (text, kind)
    scores = _scores(tokens, model.merges)
    special = {"unk": model.vocab[unknown]} if unknown in model.vocab else {}
    return _vocabulary(folder, added, tokens, scores, special, adds_prefix=document.adds_space_prefix)


def to_document(tok: Tokenizer) -> Json:
    """The tokenizer.json that transformers makes of a tokenizer.model, without added tokens and post-processor.

    Raises:
        TokenizerError: there are no scores.
    """
    if tok.scores is None:
        raise TokenizerError("a SentencePiece vocabulary without scores", where="tokenizer.ggml.scores")
    prefix = tok.flags.get("add_space_prefix", True)
    replace: Json = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normalizer: Json | None = replace
    pre_tokenizer: Json | None = None
    if prefix and tok.flags.get("legacy", True):
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
    elif prefix:
        normalizer = None
        pre_tokenizer = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    return tokenizer_document(
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        decoder=piece_decoder(strip_prefix=prefix),
        model=bpe_model(
            ids_by_text(enumerate(tok.tokens[: content_length(tok)])),
            _merges(tok, tok.scores.tolist()),
            byte_fallback=True,
            unk_token=unknown_text(tok),
        ),
    )


def _scores(tokens: Mapping[int, tuple[str, TokenType]], merges: Sequence[Merge]) -> dict[int, float]:
    """Scores of 0, -1, -2... for the normal tokens.

    They go in id order where the merges' ranks follow it, as tokenizer.model numbers its pieces; else in the order of
    the merges that first make each token, with tokens that no merge makes last.
    """
    normal = sorted(number for number, (_, kind) in tokens.items() if kind is TokenType.NORMAL)
    ids = {tokens[number][0]: number for number in normal}
    rank: dict[int, int] = {}
    for i, merge in enumerate(merges):
        if (number := ids.get(merged_text(merge))) is not None:
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


def _vocabulary(
    folder: TokenizerFolder,
    added: AddedTokens,
    tokens: dict[int, tuple[str, TokenType]],
    scores: dict[int, float],
    special: Mapping[str, int],
    *,
    adds_prefix: bool,
) -> Vocabulary:
    """The vocabulary with its added tokens; those that only repeat its own special tokens change nothing."""
    for number, token in added.by_id.items():
        known = tokens.get(number)
        if known is not None and known[0] == token.text and known[1] in (TokenType.UNKNOWN, TokenType.CONTROL):
            continue
        if known != (token.stored_text, token.type):
            tokens[number], scores[number] = (token.stored_text, token.type), ADDED_SCORE
    flags = {} if adds_prefix else {"add_space_prefix": False}
    if folder.tokenizer_json is not None and folder.tokenizer_json.prepend_scheme == "first":
        flags["legacy"] = False
    return Vocabulary("llama", "default", tokens, added, scores, special=special, flags=flags)


def _merges(tok: Tokenizer, scores: list[float]) -> list[list[str]]:
    """Every way to make a piece of two others, the highest score first, as transformers derives them."""
    normal = [i for i, kind in enumerate(tok.types.tolist()) if kind == TokenType.NORMAL]
    ids = {tok.tokens[i]: i for i in normal}
    merges: list[list[str]] = []
    for i in sorted(normal, key=lambda i: -scores[i]):
        text = tok.tokens[i]
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = [(left, right) for left, right in halves if left in ids and right in ids]
        merges += [list(pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return merges
