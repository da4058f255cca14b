"""Metadata keys that a quantized file has otherwise than its source: ``--override-kv KEY=TYPE:VALUE``.

Source: ``string_parse_kv_override`` in common.cpp and ``llama_model_quantize_impl`` in llama-quant.cpp, which writes
numbers as uint32 and float32 whatever the key held before. What it writes without a word is refused here: a negative
number (it drops the sign), one too large (it drops the upper bits), and a type that the key does not take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..errors import PlanError
from ..ir import Metadata, Model, Value, ValueType
from .keys import GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE, key_type, type_name
from .loadable import check_metadata, takes

OPTION = "--override-kv"
_MAX_TEXT = 127  # bytes of a key and of a text: llama_model_kv_override has room for 128 with the end's zero
_MAX_UINT32 = 2**32 - 1
_WHOLE = {
    ValueType.UINT8, ValueType.INT8, ValueType.UINT16, ValueType.INT16, ValueType.UINT32, ValueType.INT32,
    ValueType.UINT64, ValueType.INT64,
}  # fmt: skip
_KINDS = {  # of keys that no table knows: what may replace what
    ValueType.UINT32: _WHOLE,
    ValueType.FLOAT32: {ValueType.FLOAT32, ValueType.FLOAT64},
    ValueType.BOOL: {ValueType.BOOL},
    ValueType.STRING: {ValueType.STRING},
}
_FIXED = {
    GENERAL_ARCHITECTURE: "the names of the other keys begin with it",
    GENERAL_ALIGNMENT: "the tensors are laid out by it",
}


def parse_override(text: str) -> tuple[str, Value]:
    """Parse ``KEY=TYPE:VALUE`` as llama-quantize does: TYPE is ``int``, ``float``, ``bool`` or ``str``.

    Raises:
        PlanError: it is not of this form, or the value is not of its type.

    Example:
        >>> from quantmill import parse_override
        >>> parse_override("llama.context_length=int:8192")
        ('llama.context_length', Value(type=<ValueType.UINT32: 4>, data=8192, item=None))
    """
    key, equals, rest = text.partition("=")
    kind, colon, data = rest.partition(":")
    if not (key and equals and colon) or kind not in _PARSERS:
        hint = f"{', '.join(_PARSERS)}, such as llama.context_length=int:8192"
        raise PlanError(f"{text!r} is not KEY=TYPE:VALUE", where=OPTION, hint=hint)
    if len(key.encode("utf-8", "surrogateescape")) > _MAX_TEXT:
        raise PlanError(f"a key has at most {_MAX_TEXT} bytes", where=f"{OPTION} {key[:20]}...")
    return key, _PARSERS[kind](data, f"{OPTION} {key}")


def _int(text: str, where: str) -> Value:
    if not re.fullmatch(r"[0-9]+", text.strip()) or int(text) > _MAX_UINT32:
        raise PlanError(f"{text!r} is not a whole number from 0 to {_MAX_UINT32}", where=where)
    return Value(ValueType.UINT32, int(text))


def _float(text: str, where: str) -> Value:
    try:
        with np.errstate(over="ignore"):
            number = float(np.float32(float(text)))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise PlanError(f"{text!r} is not a number that a float32 holds", where=where)
    return Value(ValueType.FLOAT32, number)


def _bool(text: str, where: str) -> Value:
    if text not in ("true", "false"):
        raise PlanError(f"{text!r} is neither true nor false", where=where)
    return Value(ValueType.BOOL, text == "true")


def _str(text: str, where: str) -> Value:
    if len(text.encode("utf-8", "surrogateescape")) > _MAX_TEXT:
        problem = f"a text has at most {_MAX_TEXT} bytes"
        raise PlanError(problem, where=where, hint="gguf-set-metadata sets longer ones")
    return Value(ValueType.STRING, text)


_PARSERS = {"int": _int, "float": _float, "bool": _bool, "str": _str}


def parse_overrides(texts: Iterable[str]) -> dict[str, Value]:
    """Parse several; see ``parse_override``. Raises ``PlanError`` for a key that is given twice."""
    found: dict[str, Value] = {}
    for key, value in map(parse_override, texts):
        if key in found:
            raise PlanError("is given twice", where=f"{OPTION} {key}", hint="leave one of them out")
        found[key] = value
    return found


def overridden(model: Model, overrides: Metadata) -> Metadata:
    """The model's metadata with other values.

    Raises:
        PlanError: a key must stay as it is, takes values of another type, or llama.cpp would not load the file.
    """
    if not overrides:
        return model.metadata
    for key, value in overrides.items():
        _check_type(model, key, value)
    after = {**model.metadata, **overrides}
    before = set(check_metadata(model.metadata))
    for found in check_metadata(after):
        if found not in before:
            raise PlanError(found.problem, path=model.path, where=f"{OPTION} {found.key}")
    return after


def _check_type(model: Model, key: str, value: Value) -> None:
    where = f"{OPTION} {key}"
    if key in _FIXED or key.startswith("split."):
        problem = _FIXED.get(key, "the shards are numbered by it")
        raise PlanError(f"cannot be overridden: {problem}", path=model.path, where=where)
    old, known = model.metadata.get(key), key_type(key)
    if known is not None and not takes(key, value.type, value.item):
        problem = f"is {type_name(*known)}, not {type_name(value.type, value.item)}"
        raise PlanError(problem, path=model.path, where=where, hint="see inspect")
    if old is not None and old.type not in _KINDS[value.type]:
        problem = f"is {type_name(old.type, old.item)}, which no {type_name(value.type)} replaces"
        raise PlanError(problem, path=model.path, where=where, hint="gguf-set-metadata changes any key")
