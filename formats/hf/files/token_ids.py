"""The ids of single tokens of a checkpoint's tokenizer, by their text, without reading the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_text import read_json
from ...json_types import LIST, OBJECT, TEXT, WHOLE, check, take

_FILES = ("tokenizer_config.json", "tokenizer.json", "tekken.json")


def token_ids(folder: Path, wanted: Mapping[str, str]) -> dict[str, int]:
    """Find tokens among those that were added to a vocabulary.

    Args:
        folder: the checkpoint's.
        wanted: texts by a name.

    Returns:
        ids by the same names.

    Raises:
        FormatError: none of the tokenizer's files has such a token.
    """
    found: dict[str, int] = {}
    for name, text in wanted.items():
        ids = (number for file in _FILES for one, number in _added(folder / file) if one == text)
        number = next(ids, None)
        if number is None:
            hint = "download the tokenizer's files"
            raise FormatError(f"no token {text}, nor in {', '.join(_FILES[1:])}", path=folder / _FILES[0], hint=hint)
        found[name] = number
    return found


def _added(path: Path) -> Iterator[tuple[Any, int]]:
    """The texts and ids of a file's added tokens."""
    file = read_json(path)
    key = "added_tokens_decoder"
    for number, token in (take(file, key, OBJECT, path=path) or {}).items():
        check(token, OBJECT, path=path, where=f"{key}.{number}")
        if number.isdecimal():
            yield take(token, "content", TEXT, path=path, inside=f"{key}.{number}."), int(number)
    for key, text, number in (("added_tokens", "content", "id"), ("special_tokens", "token_str", "rank")):
        for i, token in enumerate(take(file, key, LIST, path=path) or []):
            check(token, OBJECT, path=path, where=f"{key}[{i}]")
            inside = f"{key}[{i}]."
            yield (
                take(token, text, TEXT, path=path, inside=inside),
                take(token, number, WHOLE, path=path, inside=inside),
            )
