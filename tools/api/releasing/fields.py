"""Values that must stand in the JSON files of a release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....formats.json_types import JsonType, check

SIZE = JsonType("a number of bytes", lambda value: type(value) is int and value >= 0)


def needed(content: Mapping[str, Any], key: str, type: JsonType, *, path: Path, inside: str = "") -> Any:
    """A value that must be there.

    Raises:
        FormatError: it is missing, or of another type.
    """
    check(content.get(key), type, path=path, where=inside + key)
    return content[key]
