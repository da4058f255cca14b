"""A Hugging Face folder's tokenizer -> ``Tokenizer``, in llama.cpp's terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ...ir import Tokenizer
from .bpe import is_byte_level, read_bpe
from .files import TokenizerFiles, read_files
from .pretokenizers import NAMES
from .special import flags, special_ids
from .spm import is_sentencepiece, load_proto, read_json_pieces, read_proto
from .vocabulary import Vocabulary


def read_tokenizer(
    folder: Path, *, vocab_size: int, model_ids: Mapping[str, Any], pre: str | None = None
) -> Tokenizer | None:
    """The tokenizer in ``folder``, or None where there is none.

    Args:
        folder: with tokenizer.json, tokenizer.model, or vocab.json and merges.txt, and the files beside them.
        vocab_size: rows of the embedding; a shorter vocabulary is padded with unused ``[PADn]``.
        model_ids: config.json, or its ``*_token_id`` entries: a number, a list, or None.
        pre: llama.cpp's pre-tokenizer name, instead of the one found by behaviour.

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
    ids = {text: number for number, (text, _) in vocabulary.tokens.items()}
    ids.update({added.text: number for number, added in files.added.items()})
    special = special_ids(files, ids, model_ids, vocabulary.special)
    # Said aloud, because llama.cpp has defaults of its own for each pre-tokenizer: a bare tokenizer.model is Llama's,
    # whose class adds bos; anything else adds what it says.
    defaults = {"add_bos_token": vocabulary.model == "llama" and files.tokenizer is None, "add_eos_token": False}
    found = {**defaults, **vocabulary.flags, **flags(files, special, ids)}
    return Tokenizer(
        model=vocabulary.model,
        pre=vocabulary.pre,
        tokens=tokens,
        types=types,
        scores=scores,
        merges=vocabulary.merges,
        special=special,
        flags=found,
        chat_templates=files.chat_templates,
    )


def _read_vocabulary(files: TokenizerFiles, pre: str | None) -> Vocabulary | None:
    """tokenizer.json's kind decides, being what transformers runs; tokenizer.model holds the scores it lacks."""
    document = files.tokenizer
    if document is not None and "model" not in document:
        raise TokenizerError("no 'model' in it", path=files.folder / "tokenizer.json", hint="download it again")
    if document is not None and is_byte_level(document):
        return read_bpe(files, pre)
    if (proto := load_proto(files)) is not None:
        return read_proto(files, proto)
    if document is not None:
        if is_sentencepiece(document):
            return read_json_pieces(files)
        raise TokenizerError(
            f"a {document['model'].get('type')} tokenizer that is neither byte-level BPE nor SentencePiece BPE",
            path=files.folder / "tokenizer.json",
            where="model.type",
        )
    if (files.folder / "vocab.json").is_file() and (files.folder / "merges.txt").is_file():
        return read_bpe(files, pre)
    if files.sentencepiece.is_file():
        raise TokenizerError("not a SentencePiece model", path=files.sentencepiece, hint="download it again")
    return None
