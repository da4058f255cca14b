"""The tokenizer of a Hugging Face folder as a ``Tokenizer``, in llama.cpp's terms.

``read_folder`` reads the files once into a typed description, ``READERS`` says which reader fits it, and what every
kind has (ids of special tokens, flags, chat templates) is added to what the reader finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import TokenizerError
from ...ir import Tokenizer
from .common.vocabulary import Vocabulary
from .files.folder import TokenizerFolder, read_folder, read_own_folder
from .files.tokenizer_json import Model, UnigramModel, WordPieceModel
from .flags import find_flags
from .kinds import byte_level_bpe, gemma4_bpe, ranked_bpe, sentencepiece_bpe, unigram, wordpiece
from .mistral_template import named_template
from .recorded import restore_pre, restore_types
from .special_ids import find_special_ids
from .splitting.pre_tokenizers import NAMES


@dataclass(frozen=True)
class Reader:
    """A way to read a vocabulary out of a folder.

    Args:
        files: what it reads.
        reason: why it is chosen before those that follow.
        fits: whether the folder has these files.
        read: takes the folder and the pre-tokenizer's name, or None to find it; raises ``TokenizerError``.
    """

    files: str
    reason: str
    fits: Callable[[TokenizerFolder], bool]
    read: Callable[[TokenizerFolder, str | None], Vocabulary]


def read_tokenizer(
    folder: Path,
    *,
    vocab_size: int,
    model_ids: Mapping[str, object],
    pre: str | None = None,
    drop_extra_tokens: bool = False,
    own: bool = False,
    named_templates: bool = True,
    say: Callable[[str], object] | None = None,
) -> Tokenizer | None:
    """Read the tokenizer in ``folder``; None where there is none.

    Args:
        folder: with tokenizer.json, a SentencePiece model, tekken.json, tiktoken's ranks, vocab.json and merges.txt, or
            vocab.txt, and the files beside them.
        vocab_size: rows of the embedding; a shorter vocabulary is padded with unused ``[PADn]``.
        model_ids: config.json, or its ``*_token_id`` entries: a number, a list, or None.
        pre: llama.cpp's pre-tokenizer name, instead of the one found by behaviour. For WordPiece and Unigram, where
            names mean nothing, any name accepts a tokenizer that llama.cpp does not follow exactly.
        drop_extra_tokens: leave out tokens beyond the embedding's rows instead of refusing them, as llama.cpp's
            converter does with SentencePiece models.
        own: read the files of Mistral's own format, whatever lies beside them.
        named_templates: whether such a tokenizer without chat_template.jinja gets the name of llama.cpp's own template
            of its version.
        say: called with a line about each contradiction between files that was settled, and about what is left out.

    Raises:
        TokenizerError: damaged files, a vocabulary longer than the embedding, or one that llama.cpp cannot run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "vocab.txt").write_text("[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\n[MASK]\\nun\\n##able\\n")
        >>> tokenizer = read_tokenizer(folder, vocab_size=8, model_ids={})
        >>> tokenizer.model, tokenizer.tokens[5:], tokenizer.special["mask"]
        ('bert', ('▁un', 'able', '[PAD7]'), 4)
    """
    if pre is not None and pre not in NAMES:
        raise TokenizerError(f"no pre-tokenizer called {pre!r}", where="--pre", hint=f"one of {', '.join(NAMES)}")
    found = read_own_folder(folder) if own else read_folder(folder)
    reader = next((row for row in READERS if row.fits(found)), None)
    if reader is None:
        return None
    vocabulary, lines = reader.read(found, pre).within(vocab_size, drop=drop_extra_tokens)
    named, note = named_template(found, wanted=named_templates) if own else ({}, [])
    if say is not None:
        for line in (*found.notes, *vocabulary.added.notes, *vocabulary.notes, *lines, *note):
            say(f"{folder}: {line}")
    tokenizer = _complete(found, vocabulary, vocab_size, model_ids)
    if own and "eos" in tokenizer.special:  # as llama.cpp's converter pads
        special = {**tokenizer.special, "pad": tokenizer.special.get("pad", tokenizer.special["eos"])}
        tokenizer = replace(tokenizer, special=special)
    return replace(tokenizer, chat_templates=named) if named else tokenizer


def _complete(
    folder: TokenizerFolder, vocabulary: Vocabulary, vocab_size: int, model_ids: Mapping[str, object]
) -> Tokenizer:
    """The tokenizer of this vocabulary, with what is found in the same way for every kind."""
    tokens, types, scores = vocabulary.arrays(vocab_size, folder.path)
    ids = {text: number for number, (text, _) in vocabulary.tokens.items()}
    ids.update({added.text: number for number, added in vocabulary.added.by_id.items()})
    special = find_special_ids(folder, ids, model_ids, vocabulary.special)
    return Tokenizer(
        model=vocabulary.model,
        pre=restore_pre(vocabulary.pre, folder.config.recorded),
        tokens=tokens,
        types=restore_types(types, folder.config.recorded),
        scores=scores,
        merges=vocabulary.merges,
        special=special,
        flags=find_flags(folder, vocabulary, special, ids),
        chat_templates=folder.chat_templates,
        precompiled_charsmap=vocabulary.charsmap,
    )


def _has_model(model: type[Model]) -> Callable[[TokenizerFolder], bool]:
    return lambda folder: folder.tokenizer_json is not None and isinstance(folder.tokenizer_json.model, model)


def _refuse_document(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    document = folder.tokenizer_json
    assert document is not None
    raise TokenizerError(
        f"a {document.model_type} tokenizer that is neither byte-level BPE nor made from SentencePiece",
        path=document.path,
        where="model.type",
    )


def _refuse_model_file(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    raise TokenizerError("not a SentencePiece model", path=folder.sentencepiece_path, hint="download it again")


# The first that fits reads.
READERS = (
    Reader(
        "tokenizer.json with byte-level BPE",
        "it is what transformers runs; a tokenizer.model beside it is another program's (Llama 3's is tiktoken's)",
        lambda folder: folder.tokenizer_json is not None and folder.tokenizer_json.is_byte_level,
        byte_level_bpe.read_json,
    ),
    Reader(
        "tokenizer.json with WordPiece",
        "it is what transformers runs",
        _has_model(WordPieceModel),
        wordpiece.read_json,
    ),
    Reader(
        "tokenizer.json with Unigram",
        "it is what transformers runs, and it has the scores",
        _has_model(UnigramModel),
        unigram.read_json,
    ),
    Reader(
        "tekken.json",
        "without tokenizer.json it is Mistral's own; a tokenizer.model beside it is an older one",
        lambda folder: folder.tokenizer_json is None and folder.has("tekken.json"),
        ranked_bpe.read_tekken_json,
    ),
    Reader(
        "a SentencePiece model that is not Unigram",
        "it has the scores that the tokenizer.json made from it lacks",
        lambda folder: (
            folder.sentencepiece is not None and not folder.sentencepiece.is_unigram and folder.differing_piece is None
        ),
        sentencepiece_bpe.read_model,
    ),
    Reader(
        "tokenizer.json with pieces that llama.cpp's gemma4 model merges by rank",
        "ranks kept are exact, scores made from them are not always",
        gemma4_bpe.keeps_merges,
        gemma4_bpe.read_json,
    ),
    Reader(
        "tokenizer.json with pieces",
        "scores can be made from the ranks of its merges",
        lambda folder: folder.tokenizer_json is not None and folder.tokenizer_json.has_pieces,
        sentencepiece_bpe.read_json,
    ),
    Reader(
        "any other tokenizer.json",
        "transformers would run it, whatever lies beside it",
        lambda folder: folder.tokenizer_json is not None,
        _refuse_document,
    ),
    Reader(
        "a SentencePiece model of type Unigram",
        "without tokenizer.json, transformers' class for it says how its pieces are numbered",
        lambda folder: folder.sentencepiece is not None,
        unigram.read_model,
    ),
    Reader(
        "tiktoken's ranks",
        "without tokenizer.json, the class that was published with them says how text is split",
        lambda folder: folder.ranks_path is not None,
        ranked_bpe.read_tiktoken,
    ),
    Reader(
        "vocab.json and merges.txt",
        "without tokenizer.json, transformers' class for them says how text is split",
        lambda folder: folder.has("vocab.json", "merges.txt"),
        byte_level_bpe.read_vocab_and_merges,
    ),
    Reader(
        "vocab.txt",
        "it is BertTokenizer's",
        lambda folder: folder.has("vocab.txt"),
        wordpiece.read_vocab_txt,
    ),
    Reader(
        "a file by the name of a SentencePiece model that holds something else",
        "no other file says what it is",
        lambda folder: folder.sentencepiece_path is not None,
        _refuse_model_file,
    ),
)
