"""Facts about a model that a user gives in a file, as llama.cpp's converter takes them: ``--metadata FILE.json``.

Source: ``Metadata.load`` and ``set_gguf_meta_model`` of gguf-py's metadata.py. Keys are full names; base models and
data sets are lists of objects under ``general.base_models`` and ``general.datasets``. Unlike there, a key that would be
ignored is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...errors import QuantmillError, located
from ...gguf.keys import key_type, typed
from ...ir import Metadata, Value, ValueType
from ...json_text import read_json
from .card import SAMPLING

_NAMES = (
    "name", "author", "version", "organization", "finetune", "basename", "description", "quantized_by", "size_label",
    "license", "license.name", "license.link", "url", "doi", "uuid", "repo_url", "source.url", "source.doi",
    "source.uuid", "source.repo_url",
)  # fmt: skip
_FIELDS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_LISTS = {"general.base_models": "general.base_model", "general.datasets": "general.dataset"}
_PLAIN = (*(f"general.sampling.{key}" for key in SAMPLING), *(f"general.{name}" for name in _NAMES))
_LAST = ("general.tags", "general.languages")
_KNOWN = (*_PLAIN, *_LISTS, *_LAST)


def read_authorship(path: Path) -> dict[str, Value]:
    """Read a file of facts.

    Raises:
        FormatError: it is no JSON object. QuantmillError: a key is not one of these, or has a value of another type.
    """
    facts = read_json(path, required=True)
    found: dict[str, Value] = {}
    with located(path):
        for key, value in facts.items():
            if key not in _KNOWN:
                near = get_close_matches(key, _KNOWN, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(_KNOWN[:3])}, ..."
                raise QuantmillError("is no key of authorship", where=key, hint=hint)
            if key in _LISTS:
                found |= _others(key, value)
            else:
                _check(key, value)
                found[key] = typed(key, value)
    return found


def _check(key: str, value: Any) -> None:
    known = key_type(key)
    if known is not None and known[0] is ValueType.ARRAY:
        fits = isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
        if not fits:
            raise QuantmillError("is not a list of texts", where=key)
    if known is not None and known[0] is ValueType.STRING and not isinstance(value, str):
        raise QuantmillError("is not a text", where=key)


def _others(key: str, value: Any) -> dict[str, Value]:
    """The keys of base models or data sets."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise QuantmillError("is not a list of objects", where=key, hint='such as [{"name": "Base 7B"}]')
    kind = _LISTS[key]
    found = {f"{kind}.count": Value(ValueType.UINT32, len(value))}
    for i, one in enumerate(value):
        for field, text in one.items():
            if field not in _FIELDS or not isinstance(text, str):
                raise QuantmillError("is none of its fields, or no text", where=f"{key}[{i}].{field}")
        found |= {f"{kind}.{i}.{field}": Value(ValueType.STRING, one[field]) for field in _FIELDS if field in one}
    return found


def with_authorship(metadata: Metadata, facts: Mapping[str, Value]) -> dict[str, Value]:
    """Metadata with other facts, each where the converter writes it. Lists replace lists."""
    gone = {kind for kind in _LISTS.values() if f"{kind}.count" in facts}
    kept = {key: value for key, value in metadata.items() if _kind(key) not in gone} | dict(facts)
    ordered = sorted((key for key in kept if _place(key) is not None), key=lambda key: _place(key) or ())
    first = [key for key in metadata if key in ("general.architecture", "general.type") or key.startswith("split.")]
    rest = [key for key in kept if key not in first and _place(key) is None]
    return {key: kept[key] for key in (*first, *ordered, *rest)}


def _kind(key: str) -> str:
    match = re.match(r"(general\.(?:base_model|dataset))\.(?:count|\d+\.)", key)
    return match[1] if match else ""


def _place(key: str) -> tuple[int, ...] | None:
    """Where a key stands among the facts; None for any other key."""
    if key in _PLAIN:
        return (0, _PLAIN.index(key))
    if key in _LAST:
        return (2, _LAST.index(key))
    if kind := _kind(key):
        match = re.fullmatch(r"\.(\d{1,9})\.(\w+)", key.removeprefix(kind))
        place = (-1, 0) if match is None else (int(match[1]), _field(match[2]))
        return (1, tuple(_LISTS.values()).index(kind), *place)
    return None


def _field(name: str) -> int:
    return _FIELDS.index(name) if name in _FIELDS else len(_FIELDS)
