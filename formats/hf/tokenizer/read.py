"""A Hugging Face folder's tokenizer -> ``Tokenizer``, in llama.cpp's terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .bpe import is_byte_level, read_bpe
from .files import TokenizerFiles, read_files
from .pretokenizers import BY_NAME, NAMES
from .raw_bpe import is_raw_bpe, read_raw_bpe
from .special import flags, special_ids
from .spm import is_sentencepiece, is_unigram_proto, load_proto, read_json_pieces, read_proto
from .unigram import is_unigram, read_unigram, read_unigram_proto
from .vocabulary import Vocabulary
from .wordpiece import is_wordpiece, read_wordpiece

_TYPES = {int(kind) for kind in TokenType}


def read_tokenizer(
    folder: Path, *, vocab_size: int, model_ids: Mapping[str, Any], pre: str | None = None
) -> Tokenizer | None:
    """The tokenizer in ``folder``, or None where there is none.

    Args:
        folder: with tokenizer.json, a SentencePiece model, vocab.json and merges.txt, or vocab.txt, and the files
            beside them.
        vocab_size: rows of the embedding; a shorter vocabulary is padded with unused ``[PADn]``.
        model_ids: config.json, or its ``*_token_id`` entries: a number, a list, or None.
        pre: llama.cpp's pre-tokenizer name, instead of the one found by behaviour. For WordPiece and Unigram, where
            names mean nothing, any name lets pass what llama.cpp would do otherwise.

    Raises:
        TokenizerError: damaged files, a vocabulary longer than the embedding, or one llama.cpp cannot run.
    """
    files = read_files(folder)
    if pre is not None and pre not in NAMES:
        raise TokenizerError(f"no pre-tokenizer called {pre!r}", where="--pre", hint=f"one of {', '.join(NAMES)}")
    vocabulary = _read_vocabulary(files, pre)
    if vocabulary is None:
        return None
    tokens, types, scores = vocabulary.arrays(vocab_size, folder)
    _restore_types(types, files)
    ids = {text: number for number, (text, _) in vocabulary.tokens.items()}
    ids.update({added.text: number for number, added in files.added.items()})
    special = special_ids(files, ids, model_ids, vocabulary.special)
    # Said aloud, because llama.cpp has defaults of its own for each pre-tokenizer: a bare tokenizer.model is Llama's,
    # whose class adds bos; anything else adds what it says.
    defaults = {"add_bos_token": vocabulary.model == "llama" and files.tokenizer is None, "add_eos_token": False}
    found = {**defaults, **vocabulary.flags, **flags(files, special, ids)}
    if vocabulary.model == "t5":  # what is done to text outweighs what tokenizer_config.json says of it
        found["add_space_prefix"] = vocabulary.flags["add_space_prefix"]
    if (mask := files.added.get(special.get("mask", -1))) is not None and mask.lstrip:
        found["mask_lstrip"] = True
    if any(added.rstrip for added in files.added.values()):
        found["special_rstrip"] = True
    return Tokenizer(
        model=vocabulary.model,
        pre=_recorded_pre(files, vocabulary.pre),
        tokens=tokens,
        types=types,
        scores=scores,
        merges=vocabulary.merges,
        special=special,
        flags=found,
        chat_templates=files.chat_templates,
        precompiled_charsmap=vocabulary.charsmap,
    )


def _read_vocabulary(files: TokenizerFiles, pre: str | None) -> Vocabulary | None:
    """tokenizer.json's kind decides, being what transformers runs; tokenizer.model holds the scores it lacks."""
    document = files.tokenizer
    if document is None:
        return _read_without_json(files, pre)
    if "model" not in document:
        raise TokenizerError("no 'model' in it", path=files.folder / "tokenizer.json", hint="download it again")
    if is_byte_level(document):
        return read_bpe(files, pre)
    if is_wordpiece(document):
        return read_wordpiece(files, checked=pre is None)
    proto = load_proto(files)
    if is_unigram(document):
        return read_unigram(files, proto, checked=pre is None)
    if proto is not None and not is_unigram_proto(proto):
        return read_proto(files, proto)
    if is_sentencepiece(document):
        return read_raw_bpe(files) if is_raw_bpe(files) else read_json_pieces(files)
    raise TokenizerError(
        f"a {document['model'].get('type')} tokenizer that is neither byte-level BPE nor made from SentencePiece",
        path=files.folder / "tokenizer.json",
        where="model.type",
    )


def _read_without_json(files: TokenizerFiles, pre: str | None) -> Vocabulary | None:
    if (proto := load_proto(files)) is not None:
        return read_unigram_proto(files, proto) if is_unigram_proto(proto) else read_proto(files, proto)
    if (files.folder / "vocab.json").is_file() and (files.folder / "merges.txt").is_file():
        return read_bpe(files, pre)
    if (files.folder / "vocab.txt").is_file():
        return read_wordpiece(files, checked=pre is None)
    if files.sentencepiece is not None:
        raise TokenizerError("not a SentencePiece model", path=files.sentencepiece, hint="download it again")
    return None


def _restore_types(types: NDArray[np.int32], files: TokenizerFiles) -> None:
    """The types that ``write_tokenizer`` recorded, where these files say otherwise or nothing."""
    recorded = files.recorded.get("token_types")
    for number, kind in (recorded if isinstance(recorded, dict) else {}).items():
        if number.isdecimal() and int(number) < len(types) and kind in _TYPES:
            types[int(number)] = kind


def _recorded_pre(files: TokenizerFiles, pre: str | None) -> str | None:
    """Of the names that split alike, the one ``write_tokenizer`` recorded."""
    recorded = files.recorded.get("pre")
    if not isinstance(recorded, str) or recorded not in BY_NAME or pre not in BY_NAME:
        return pre
    return recorded if BY_NAME[recorded] is BY_NAME[pre] else pre
