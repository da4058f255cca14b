"""Convert a Tokenizer to the ``tokenizer.*`` keys of GGUF, and back.

Keys, types and their order are what llama.cpp's converter writes (conversion/base.py and llama.py,
gguf-py/gguf/vocab.py ``SpecialVocab.add_to_gguf``); what llama.cpp makes of them is in src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TokenizerError, located
from ..ir import Metadata, Model, Tokenizer, TokenType, Value, ValueType

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_TEMPLATES = "tokenizer.chat_templates"

# Short name -> key, in SpecialVocab's order. "seperator" is how GGUF spells it.
SPECIAL_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "fim_pre": "fim_pre_token_id",
    "fim_suf": "fim_suf_token_id",
    "fim_mid": "fim_mid_token_id",
    "fim_pad": "fim_pad_token_id",
    "fim_rep": "fim_rep_token_id",
    "fim_sep": "fim_sep_token_id",
}
# Keys of older files: llama.cpp still reads those of 2023 for the fim tokens; BERT's first token is now its bos.
_OLD_SPECIAL_KEYS = {
    "bos": "cls_token_id",
    "fim_pre": "prefix_token_id",
    "fim_suf": "suffix_token_id",
    "fim_mid": "middle_token_id",
}
# What llama.cpp assumes if a file of these models has no such key (llama-vocab.cpp, load).
_DEFAULT_SPECIAL = {
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}
FLAG_KEYS = {
    **{key: _PREFIX + key for key in ("add_bos_token", "add_eos_token", "add_sep_token", "remove_extra_whitespaces")},
    "normalizer_lowercase": _PREFIX + "normalizer.lowercase",
    "normalizer_strip_accents": _PREFIX + "normalizer.strip_accents",
    # For the way back: llama.cpp decides by the names of architecture, pre-tokenizer and model whether spaces before
    # <mask> or after special tokens (Phi-3) are removed; BERT's other two choices it does not have.
    **{key: f"quantmill.tokenizer.{key}" for key in ("mask_lstrip", "special_rstrip")},
    **{key: f"quantmill.tokenizer.{key}" for key in ("handle_chinese_chars", "clean_text")},
    # For the way back; llama.cpp always behaves as if it were true: SentencePiece's ▁ is put before every piece of
    # text. With legacy=false, Hugging Face puts it only before the first, not after special tokens.
    "legacy": "quantmill.tokenizer.legacy",
}


_TYPES = {int(kind) for kind in TokenType}  # a contiguous range


def tokenizer_to_metadata(tok: Tokenizer) -> dict[str, Value]:
    """The ``tokenizer.*`` keys of a tokenizer, in the order in which llama.cpp's converter writes them."""
    out: dict[str, Value] = {}
    if "add_space_prefix" in tok.flags:  # LlamaModel.set_vocab writes it before everything else
        out[_PREFIX + "add_space_prefix"] = _bool(tok.flags["add_space_prefix"])
    out[_PREFIX + "model"] = _string(tok.model)
    if tok.pre is not None:
        out[_PREFIX + "pre"] = _string(tok.pre)
    out[_PREFIX + "tokens"] = Value(ValueType.ARRAY, tok.tokens, ValueType.STRING)
    if tok.scores is not None:
        out[_PREFIX + "scores"] = Value(ValueType.ARRAY, np.asarray(tok.scores, np.float32), ValueType.FLOAT32)
    out[_PREFIX + "token_type"] = Value(ValueType.ARRAY, np.asarray(tok.types, np.int32), ValueType.INT32)
    if tok.precompiled_charsmap is not None:
        charsmap = np.frombuffer(tok.precompiled_charsmap, np.uint8)
        out[_PREFIX + "precompiled_charsmap"] = Value(ValueType.ARRAY, charsmap, ValueType.UINT8)
    if tok.merges is not None:
        out[_PREFIX + "merges"] = Value(ValueType.ARRAY, tok.merges, ValueType.STRING)
    for name, key in SPECIAL_KEYS.items():
        if name in tok.special:
            out[_PREFIX + key] = Value(ValueType.UINT32, int(tok.special[name]))
    for name, key in FLAG_KEYS.items():
        if name in tok.flags:
            out[key] = _bool(tok.flags[name])
    out.update(_templates_to_metadata(tok.chat_templates))
    return out


def tokenizer_from_metadata(metadata: Metadata) -> Tokenizer | None:
    """The tokenizer in a GGUF file's metadata; None if it has none.

    Raises:
        TokenizerError: the arrays are missing, of the wrong type, or of different lengths.
    """
    model = _text(metadata, _PREFIX + "model")
    if model in (None, "none", "no_vocab"):
        return None
    tokens = _strings(metadata, "tokens")
    if tokens is None:
        raise TokenizerError("is missing, though there is a tokenizer", where=_PREFIX + "tokens")
    types = _numbers(metadata, "token_type", np.int32, len(tokens))
    if types is not None and types.size and not (types.min() in _TYPES and types.max() in _TYPES):
        raise TokenizerError(f"types of {types.min()} to {types.max()}; 1 to 6 are known", where=_PREFIX + "token_type")
    charsmap = _numbers(metadata, "precompiled_charsmap", np.uint8, None)
    special = {}
    for name, key in SPECIAL_KEYS.items():
        value = _data(metadata, _PREFIX + key, _data(metadata, _PREFIX + _OLD_SPECIAL_KEYS.get(name, key)))
        if isinstance(value, int) and 0 <= value < len(tokens):  # llama.cpp ignores other ids, too
            special[name] = int(value)
    for name, number in _DEFAULT_SPECIAL.get(model, {}).items():
        if number < len(tokens):
            special.setdefault(name, number)
    flags = {}
    for name, key in (("add_space_prefix", _PREFIX + "add_space_prefix"), *FLAG_KEYS.items()):
        if (value := _data(metadata, key)) is not None:
            if not isinstance(value, int):
                raise TokenizerError("must be a bool", where=key)
            flags[name] = bool(value)
    name = (_text(metadata, "general.name") or "").lower()
    if model == "llama" and ("phi-3" in name or "phi3" in name):
        flags.setdefault("special_rstrip", True)
    return Tokenizer(
        model=model,
        pre=_text(metadata, _PREFIX + "pre"),
        tokens=tokens,
        types=np.full(len(tokens), TokenType.NORMAL, np.int32) if types is None else types,
        scores=_numbers(metadata, "scores", np.float32, len(tokens)),
        merges=_strings(metadata, "merges"),
        special=special,
        flags=flags,
        chat_templates=_templates_from_metadata(metadata),
        precompiled_charsmap=None if charsmap is None else charsmap.tobytes(),
    )


def tokenizer_of(model: Model) -> Tokenizer | None:
    """The tokenizer of a model; as ``tokenizer_from_metadata``, and errors name the model's file."""
    with located(model.path):
        return tokenizer_from_metadata(model.metadata)


def _templates_to_metadata(templates: Mapping[str, str]) -> dict[str, Value]:
    out = {}
    named = {_template_name(name): text for name, text in templates.items() if name != "default"}
    for name, text in named.items():
        out[f"{_TEMPLATE}.{name}"] = _string(text)
    if named:
        out[_TEMPLATES] = Value(ValueType.ARRAY, tuple(named), ValueType.STRING)
    if "default" in templates:
        out[_TEMPLATE] = _string(templates["default"])
    return out


def _templates_from_metadata(metadata: Metadata) -> dict[str, str]:
    out = {}
    if (default := _text(metadata, _TEMPLATE)) is not None:
        out["default"] = default
    for key, value in metadata.items():
        if key.startswith(_TEMPLATE + ".") and isinstance(value.data, str):
            out[key[len(_TEMPLATE) + 1 :]] = value.data
    return out


def _template_name(name: str) -> str:
    """A name of ASCII letters and digits, as gguf-py's ``add_chat_template`` makes it."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _data(metadata: Metadata, key: str, default: Any = None) -> Any:
    value = metadata.get(key)
    return default if value is None else value.data


def _text(metadata: Metadata, key: str) -> str | None:
    data = _data(metadata, key)
    if data is not None and not isinstance(data, str):
        raise TokenizerError("must be a string", where=key)
    return data


def _strings(metadata: Metadata, name: str) -> tuple[str, ...] | None:
    value = metadata.get(_PREFIX + name)
    if value is None:
        return None
    if value.type is not ValueType.ARRAY or (value.item is not ValueType.STRING and len(value.items)):
        raise TokenizerError("not an array of strings", where=_PREFIX + name)
    return value.texts


def _numbers(metadata: Metadata, name: str, dtype: Any, length: int | None) -> Any:
    value = metadata.get(_PREFIX + name)
    if value is None:
        return None
    array = value.data if value.item is not ValueType.STRING or len(value.items) else np.empty(0, dtype)
    if not isinstance(array, np.ndarray) or not _fits(array, dtype):
        raise TokenizerError(f"not an array of numbers that {np.dtype(dtype)} holds", where=_PREFIX + name)
    with np.errstate(over="ignore"):  # a score beyond float32's is infinite to llama.cpp, too
        array = array.astype(dtype, copy=False)
    if length is not None and len(array) != length:
        raise TokenizerError(f"{len(array)} entries for {length} tokens", where=_PREFIX + name)
    return array


def _fits(array: NDArray[Any], dtype: Any) -> bool:
    """Whether numbers can be converted to a type: integers to floats, but not floats to integers."""
    if np.dtype(dtype).kind == "f":
        return array.dtype.kind in "fiu"
    bounds = np.iinfo(dtype)
    low = bounds.min if array.dtype != np.int8 else -128  # bytes, whatever their sign
    return array.dtype.kind in "iu" and bool(((array >= low) & (array <= bounds.max)).all())


def _string(text: str) -> Value:
    return Value(ValueType.STRING, text)


def _bool(value: bool) -> Value:
    return Value(ValueType.BOOL, bool(value))
