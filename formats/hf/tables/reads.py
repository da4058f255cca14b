"""What the nouns of a table read of a config: each says its keys, and the JSON type that it takes their values for.

``config_types.py`` checks a config.json by it. Rows, rules, conditions, sizes and ops all have a method ``reads``; one
that reads nothing but through what it is made of is an ``OfParts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...gguf.keys import key_type
from ...ir import ValueType
from ...json_types import FLAG, NUMBER, TEXT, WHOLE, JsonType

Reads = Mapping[str, JsonType | None]  # None: the type of the class's default

LAYER_TYPES = "layer_types"  # which kind each layer is of, a word for each

_OF_GGUF = {
    ValueType.BOOL: FLAG,
    ValueType.UINT32: WHOLE,
    ValueType.INT32: WHOLE,
    ValueType.FLOAT32: NUMBER,
    ValueType.STRING: TEXT,
}
_OF_PYTHON = ((bool, FLAG), (int, WHOLE), (float, NUMBER), (str, TEXT))


class Noun(Protocol):
    """What a table is made of."""

    def reads(self) -> Reads: ...


class OfParts:
    """What reads a config only by the sizes and conditions in it, which are nouns of their own, if at all."""

    def reads(self) -> Reads:
        return {}


def of_example(value: object) -> JsonType | None:
    """The type of a value; None of null, a list and an object."""
    return next((of for type, of in _OF_PYTHON if isinstance(value, type)), None)


def of_gguf(key: str) -> JsonType | None:
    """The type of a config key's value that is written as a hyper-parameter; None if it may be several."""
    known = key_type(key)
    return None if known is None else _OF_GGUF.get(known[0])
