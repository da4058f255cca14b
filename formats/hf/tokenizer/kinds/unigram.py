"""Unigram (llama.cpp's ``t5``): the tokenizers of T5, UMT5 and XLM-RoBERTa.

Reads tokenizer.json or a SentencePiece model; writes tokenizer.json.

llama.cpp runs sentencepiece's normalization itself (src/llama-vocab.cpp, ``llm_tokenizer_ugm``): its table of
replacements, then ``▁`` before the text, and runs of spaces into one where ``remove_extra_whitespaces`` says so.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from ....errors import TokenizerError
from ....ir import Tokenizer, TokenType
from ..common.documents import SPACE, content_length, ids_by_text, piece_decoder, tokenizer_document, unknown_id
from ..common.pieces import is_byte
from ..common.vocabulary import ADDED_SCORE, PADDING_SCORE, Vocabulary
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.json_values import text as json_text
from ..files.numbering import AddedTokens
from ..files.sentencepiece_model import Piece
from ..files.tokenizer_json import TokenizerJson, UnigramModel
from ..splitting.probes import PROBES, differing_probes, split_probes

_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")  # XLM-RoBERTa's first ids; its pieces follow one place later
_EXTRA_IDS = 100  # transformers' default for T5
_SPECIAL = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}


def read_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of a tokenizer.json, which holds the scores and, in its normalizer, the table of replacements.

    A SentencePiece model beside it gives the types, and the exact scores, of the pieces that both number alike.

    Args:
        folder: its tokenizer.json has a Unigram model.
        pre: None if normalizer and pre-tokenizer must do what llama.cpp does.

    Raises:
        TokenizerError: they do something else, or the table is damaged.
    """
    document, model = folder.document(UnigramModel)
    added = folder.added_tokens({text: number for number, (text, _) in enumerate(model.pieces)})
    tokens, scores = {}, {}
    for number, (text, score) in enumerate(model.pieces):
        kind = TokenType.NORMAL
        if number == model.unk_id:
            kind = TokenType.UNKNOWN
        elif model.byte_fallback and is_byte(text):
            kind = TokenType.BYTE
        elif text == f"[PAD{number}]" and number not in added.by_id:
            kind, score = TokenType.UNUSED, PADDING_SCORE
        tokens[number], scores[number] = (text, kind), score
    for number, piece in enumerate(folder.sentencepiece.pieces if folder.sentencepiece is not None else ()):
        if number in tokens and tokens[number][0] == piece.text:
            scores[number] = piece.score
            if tokens[number][1] is TokenType.NORMAL:
                tokens[number] = (piece.text, piece.type)
    charsmap = _charsmap(document)
    prefix, merge = _spaces(document, charsmap, checked=pre is None)
    special = {} if model.unk_id is None else {"unk": model.unk_id}
    flags = {"add_space_prefix": prefix, "remove_extra_whitespaces": merge}
    return _vocabulary(added, tokens, scores, special, flags, charsmap)


def read_model(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary of a SentencePiece model alone, numbered as transformers' class for it numbers its pieces.

    Args:
        folder: with a SentencePiece model of type Unigram.
        pre: ignored.

    Raises:
        TokenizerError: the class numbers pieces in a way of its own (CamemBERT, Pegasus, ...).
    """
    found, name = folder.sentencepiece, folder.config.tokenizer_class
    assert found is not None
    fairseq = found.path.name == "sentencepiece.bpe.model"
    known = ("XLMRoberta",) if fairseq else ("T5", "MT5", "Llama", "PreTrained")
    if name and not name.startswith(known):
        raise TokenizerError(
            f"how {name} numbers its pieces is in its code",
            path=found.path,
            hint="save it with its tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    pieces = found.pieces
    if fairseq:
        first = [Piece(text, TokenType.UNKNOWN if text == "<unk>" else TokenType.CONTROL, 0.0) for text in _FAIRSEQ]
        pieces = (*first, *pieces[3:], Piece("<mask>", TokenType.CONTROL, 0.0))
    elif name and name.startswith(("T5", "MT5")):
        n = _EXTRA_IDS if folder.config.extra_ids is None else folder.config.extra_ids
        taken = {piece.text for piece in pieces}
        extra = [f"<extra_id_{i}>" for i in reversed(range(n))]
        pieces = (*pieces, *(Piece(text, TokenType.CONTROL, 0.0) for text in extra if text not in taken))
    tokens = {number: (piece.stored_text, piece.type) for number, piece in enumerate(pieces)}
    scores = {number: piece.score for number, piece in enumerate(pieces)}
    ids = {text: number for number, (text, _) in tokens.items()}
    special = {short: ids[text] for short, text in _SPECIAL.items() if text in ids}
    if fairseq:
        special["sep"] = special["eos"]
    flags = {
        "add_space_prefix": found.adds_space_prefix,
        "add_bos_token": fairseq,
        "add_eos_token": True,
        "remove_extra_whitespaces": found.removes_extra_spaces,
        **({"add_sep_token": True, "mask_lstrip": True} if fairseq else {"add_sep_token": False}),
    }
    added = folder.added_tokens({piece.text: number for number, piece in enumerate(pieces)}, ids_stand=True)
    return _vocabulary(added, tokens, scores, special, flags, found.charsmap)


def to_document(tok: Tokenizer) -> Json:
    """The tokenizer.json that treats text as llama.cpp does, without added tokens and post-processor.

    Raises:
        TokenizerError: there are no scores.
    """
    if tok.scores is None:
        raise TokenizerError("a Unigram vocabulary without scores", where="tokenizer.ggml.scores")
    n = content_length(tok)
    types, scores = tok.types[:n].tolist(), tok.scores[:n].tolist()
    lowest = min((score for score, kind in zip(scores, types, strict=True) if kind == TokenType.NORMAL), default=0.0)
    # An unknown character costs ten more than the lowest score: tokenizers counts every row, llama.cpp normal ones.
    scores = [max(score, lowest) for score in scores]
    steps: list[Json] = []
    if tok.precompiled_charsmap is not None:
        steps.append(_precompiled(tok.precompiled_charsmap))
    merge = tok.flags.get("remove_extra_whitespaces", False)
    prefix = merge or tok.flags.get("add_space_prefix", False)  # merging puts one before every word
    if merge:
        steps += [_replace({"Regex": "^ +| +$"}, ""), _replace({"Regex": " +"}, SPACE)]
    else:
        steps.append(_replace({"String": " "}, SPACE))
    if prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return tokenizer_document(
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=None,
        decoder=piece_decoder(strip_prefix=prefix),
        model={
            "type": "Unigram",
            "unk_id": unknown_id(tok),
            "vocab": [[text, scores[number]] for text, number in ids_by_text(enumerate(tok.tokens[:n])).items()],
            "byte_fallback": types.count(TokenType.BYTE) == 256,
        },
    )


def normalize_spaces(text: str, prefix: bool, merge: bool) -> str:
    """What llama.cpp makes of the spaces of a text (``llm_tokenizer_ugm_session::normalize``).

    Args:
        text: after the table of replacements.
        prefix: its add_space_prefix.
        merge: its remove_extra_whitespaces.

    Example:
        >>> normalize_spaces(" a  b", prefix=True, merge=True), normalize_spaces(" a  b", prefix=False, merge=False)
        ('▁a▁b', '▁a▁▁b')
    """
    out, inside, prepended = [], False, False
    for char in text:
        if char == " ":
            inside = False
            out.append("" if merge else SPACE)
            continue
        if not inside and ((prefix and not prepended) or merge):
            out.append(SPACE)
            prepended = True
        inside = True
        out.append(char)
    return "".join(out)


def _vocabulary(
    added: AddedTokens,
    tokens: dict[int, tuple[str, TokenType]],
    scores: dict[int, float],
    special: Mapping[str, int],
    flags: Mapping[str, bool],
    charsmap: bytes | None,
) -> Vocabulary:
    """The vocabulary with its added tokens, which keep the scores it has for them; the unknown token stays as it is."""
    for number, token in added.by_id.items():
        if number in tokens and tokens[number][1] is TokenType.UNKNOWN:
            continue
        tokens[number] = (token.stored_text, token.type)
        scores.setdefault(number, ADDED_SCORE)
    return Vocabulary("t5", "default", tokens, added, scores, special=special, flags=flags, charsmap=charsmap)


def _charsmap(document: TokenizerJson) -> bytes | None:
    for step in document.normalizer_steps:
        if step["type"] == "Precompiled" and (table := step.get("precompiled_charsmap")):
            try:
                return base64.b64decode(json_text(table), validate=True)
            except ValueError:
                where = "normalizer.precompiled_charsmap"
                raise TokenizerError("not base64", path=document.path, where=where) from None
    return None


def _precompiled(charsmap: bytes) -> Json:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")}


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _spaces(document: TokenizerJson, charsmap: bytes | None, *, checked: bool) -> tuple[bool, bool]:
    """Find add_space_prefix and remove_extra_whitespaces by what the tokenizer does to probe strings."""
    words = split_probes(document.normalizer, document.pre_tokenizer, document.path)
    ours = ["".join(parts) for parts in words]
    table = _precompiled(charsmap) if charsmap else None
    plain = ["".join(parts) for parts in split_probes(table, None, document.path)]
    made, wrong = {}, {}
    for prefix, merge in ((True, True), (True, False), (False, False)):
        theirs = [normalize_spaces(text, prefix, merge) for text in plain]
        # Where the library differs from sentencepiece: Metaspace adds no ▁ to a text that starts with a space, and
        # transformers' first converters kept one at the end.
        unlike = [text.endswith(" ") if merge else text.startswith(" ") for text in plain]
        fair = [a if odd else b for a, b, odd in zip(ours, theirs, unlike, strict=True)]
        made[prefix, merge], wrong[prefix, merge] = theirs, differing_probes(ours, fair)
    prefix, merge = min(wrong, key=lambda choice: len(wrong[choice]))
    if checked and (differing := wrong[prefix, merge]):
        i = differing[0]
        raise TokenizerError(
            f"llama.cpp does not prepare text as this Unigram tokenizer does: of {len(PROBES)} probes"
            f" {len(differing)} differ, {PROBES[i]!r} becomes {ours[i]!r} here, {made[prefix, merge][i]!r} there",
            path=document.path,
            where="normalizer",
            hint="--pre default converts it all the same",
        )
    return prefix, merge
