"""What a quantization's config says of its layers: values checked for their types, and errors that name their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_types import JsonType, take

INSIDE = "quantization_config"  # the key of config.json


def refusal(path: Path, key: str, problem: str, hint: str | None = None) -> FormatError:
    """An error of a key of a quantization's config, which is config.json's or a file of its own."""
    return FormatError(problem, path=path, where=_place(path) + key, hint=hint)


def check_types(config: Mapping[str, Any], types: Mapping[str, JsonType], path: Path, inside: str = "") -> None:
    """Check the values of keys.

    Args:
        config: the quantization's config, or an object inside it.
        types: of the keys.
        path: the file.
        inside: what comes before the keys, such as ``config_groups.``.

    Raises:
        FormatError: one is not of its type.
    """
    for key, type in types.items():
        take(config, key, type, path=path, inside=_place(path) + inside)


def _place(path: Path) -> str:
    return f"{INSIDE}." if path.name == "config.json" else ""
