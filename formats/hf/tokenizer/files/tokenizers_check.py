"""What the tokenizers library says of a tokenizer.json, which it reads for transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ....errors import TokenizerError
from .json_values import Json, json_list, json_object

_PARTS = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")
# What the library asks for and older files lack.
_TOKEN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
_WORD_PIECE = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
_PLAIN_MODEL: Json = {"type": "BPE", "vocab": {}, "merges": []}


def check_by_library(document: Json, path: Path) -> None:
    """Let the tokenizers library read everything of a tokenizer.json but its vocabulary and its merges.

    Args:
        document: a tokenizer.json whose model and added tokens were parsed.
        path: its file, for messages.

    Raises:
        TokenizerError: the library refuses it, and so would transformers.
    """
    parts = {key: document[key] for key in _PARTS if document.get(key) is not None}
    if "added_tokens" in parts:
        parts["added_tokens"] = [{**_TOKEN, **json_object(token)} for token in json_list(parts["added_tokens"])]
    for key, part in parts.items():  # each by itself, to say where
        with library_errors(path, key):
            _load({"version": "1.0", key: part, "model": _PLAIN_MODEL})
    with library_errors(path, "model"):
        _load({"version": "1.0", "model": _small(json_object(document["model"]))})
    with library_errors(path, "version"):
        _load({"version": document.get("version", "1.0"), "model": _PLAIN_MODEL})


@contextmanager
def library_errors(path: Path, where: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into a ``TokenizerError``."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception, and its panics are not even that
        raise TokenizerError(f"the tokenizers library refuses it: {error}", path=path, where=where) from None


def _load(document: Mapping[str, object]) -> None:
    from tokenizers import Tokenizer

    Tokenizer.from_str(json.dumps(document))


def _small(model: Json) -> Json:
    """The model with the smallest vocabulary that the library takes."""
    if isinstance(model["vocab"], list):
        return {**model, "vocab": [["<unk>", 0.0]], "unk_id": None}
    small = {**model, "vocab": {}}
    return {**small, "merges": []} if "merges" in model else {**_WORD_PIECE, **small}
