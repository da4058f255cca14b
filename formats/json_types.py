"""The types of values in JSON files of strangers, checked where a value is taken out.

A value of another type would otherwise be skipped, or Python's truth of it taken, and another model come out: the text
"false" is true, and a number written as a text is none.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FormatError

_MAX_WHOLE = 1 << 31  # sizes, counts and ids are an int32 or a uint32 of GGUF
_MAX_NUMBER = 3.4e38  # float32's
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


@dataclass(frozen=True)
class JsonType:
    """A type of JSON values.

    Args:
        name: for messages: "a number".
        holds: whether a value is of the type.
    """

    name: str
    holds: Callable[[Any], bool]


FLAG = JsonType("true or false", lambda value: isinstance(value, bool))
WHOLE = JsonType("a whole number", lambda value: type(value) is int and abs(value) < _MAX_WHOLE)
NUMBER = JsonType("a number", lambda value: type(value) in (int, float) and abs(value) <= _MAX_NUMBER)  # NaN is not
POSITIVE = JsonType("a positive number", lambda value: NUMBER.holds(value) and value > 0)
POSITIVE_WHOLE = JsonType("a positive whole number", lambda value: WHOLE.holds(value) and value > 0)
TEXT = JsonType("a text", lambda value: isinstance(value, str))
NULL = JsonType("null", lambda value: value is None)
LIST = JsonType("a list", lambda value: isinstance(value, list))
OBJECT = JsonType("an object", lambda value: isinstance(value, dict))


def list_of(type: JsonType, items: str) -> JsonType:
    """Lists of a type; ``items`` names several of it: "numbers"."""
    return JsonType(f"a list of {items}", lambda value: isinstance(value, list) and all(map(type.holds, value)))


def by_name(type: JsonType, items: str) -> JsonType:
    """Objects whose values are of a type; ``items`` names several of it."""
    return JsonType(
        f"an object of {items}", lambda value: isinstance(value, dict) and all(map(type.holds, value.values()))
    )


def either(*types: JsonType) -> JsonType:
    """What is of one of several types."""
    names = " or ".join(type.name for type in types)
    return JsonType(names, lambda value: any(type.holds(value) for type in types))


def optional(*types: JsonType) -> JsonType:
    """What is of one of several types, or null."""
    return either(*types, NULL)


WHOLES = list_of(WHOLE, "whole numbers")
NUMBERS = list_of(NUMBER, "numbers")
TEXTS = list_of(TEXT, "texts")


def check(value: object, type: JsonType, *, path: Path | None = None, where: str) -> None:
    """Check a value.

    Raises:
        FormatError: it is not of the type.
    """
    if not type.holds(value):
        problem = f"{shown(value)} is not {type.name}"
        raise FormatError(problem, path=path, where=where, hint="correct it, or download the file again")


def take(
    values: Mapping[str, Any], key: str, type: JsonType, missing: Any = None, *, path: Path, inside: str = ""
) -> Any:
    """Take a value out of an object.

    Args:
        values: the object.
        key: the value's key.
        type: the type that the value must have.
        missing: what is returned where there is no such key, or the value is null and ``missing`` is None.
        path: the object's file, for messages.
        inside: what comes before the key in messages, such as ``quantization_config.``.

    Raises:
        FormatError: the value is not of the type.
    """
    if key not in values or (missing is None and values[key] is None):
        return missing
    check(values[key], type, path=path, where=inside + key)
    return values[key]


def shown(value: object) -> str:
    """A value as a message shows it: as Python writes it, a long one shortened."""
    return _SHORT.repr(value)
