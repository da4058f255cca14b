"""BPE over characters with ``▁`` for a space that keeps its merges (llama.cpp's ``gemma4``).

Reads and writes tokenizer.json.

llama.cpp's ``gemma4`` model runs the merges themselves, line by line, where ``llama`` goes by scores.
"""

from __future__ import annotations

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
from ..common.merges import merge_from_gguf, merges_to_gguf
from ..common.pieces import piece_type, unknown_piece
from ..common.vocabulary import ADDED_SCORE, Vocabulary
from ..files.added_tokens import AddedToken
from ..files.folder import TokenizerFolder
from ..files.json_values import Json
from ..files.tokenizer_json import BpeModel

# Names of pre-tokenizers under which llama.cpp's gpt2 model does the same.
GPT2_PRE_NAMES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")
# Gemma 4's special tokens that a chat parser must read (conversion/gemma.py): llama.cpp prints user-defined ones.
_VISIBLE = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}


def keeps_merges(folder: TokenizerFolder) -> bool:
    """Whether llama.cpp's ``gemma4`` model does what this tokenizer.json of pieces does.

    It does if no ▁ goes before the text, no token crosses the end of a line (text is split there), and bos goes first:
    llama.cpp adds it to such a vocabulary whatever its flag says.
    """
    document = folder.tokenizer_json
    if document is None or not document.has_pieces or document.adds_space_prefix:
        return False
    bos = next(filter(None, folder.named_texts("bos_token")), None)
    if bos is None or document.first_token != bos:
        return False
    _, model = folder.document(BpeModel)
    return all(not text.strip("\n") for text in model.vocab if "\n" in text)


def read_json(folder: TokenizerFolder, pre: str | None) -> Vocabulary:
    """The vocabulary and merges of a tokenizer.json that ``keeps_merges``.

    Args:
        folder: with that tokenizer.json.
        pre: ignored.
    """
    _, model = folder.document(BpeModel)
    unknown = unknown_piece(folder, model)
    tokens = {number: (text, piece_type(text, unknown)) for text, number in model.vocab.items()}
    added = folder.added_tokens(model.vocab)
    for number, token in added.by_id.items():
        if token.text != unknown:
            tokens[number] = (token.stored_text, _type(token))
    return Vocabulary(
        model="gemma4",
        pre=None,
        tokens=tokens,
        added=added,
        scores=dict.fromkeys(tokens, ADDED_SCORE),  # llama.cpp does not look at them
        merges=merges_to_gguf(model.merges),
        special={"unk": model.vocab[unknown]} if unknown in model.vocab else {},
        flags={"add_space_prefix": False, "add_bos_token": True},
    )


def to_document(tok: Tokenizer) -> Json:
    """The tokenizer.json of a tokenizer, without added tokens and post-processor.

    Raises:
        TokenizerError: there are no merges.
    """
    if tok.merges is None:
        raise TokenizerError("BPE without merges", where="tokenizer.ggml.merges")
    return tokenizer_document(
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "\n+"}, "behavior": "Isolated", "invert": False},
        decoder=piece_decoder(strip_prefix=False),
        model=bpe_model(
            ids_by_text(enumerate(tok.tokens[: content_length(tok)])),
            map(merge_from_gguf, tok.merges),
            byte_fallback=True,
            unk_token=unknown_text(tok),
        ),
    )


def _type(added: AddedToken) -> TokenType:
    return TokenType.USER_DEFINED if added.text in _VISIBLE else added.type
