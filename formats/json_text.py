"""Parse JSON of untrusted files: its memory is bounded before it is parsed.

Three bytes of JSON (``[],``) become a list of 56 bytes and an item of another, so a header of 100 MB could take
gigabytes. Counting brackets, commas and quotes is cheap and bounds the objects that Python makes of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import FormatError
from .pointers import check_pointer

ROOM = 64 << 20  # bytes of memory beyond the file's own size that a reader may take

# Bytes that CPython 3.10 to 3.14 takes at most for each, its item in a container included (sys.getsizeof, tracemalloc).
_COSTS = ((b"{", 240), (b"[", 96), (b",", 72), (b'"', 40))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(
    raw: bytes,
    path: Path,
    *,
    room: int,
    where: str | None = None,
    error: type[FormatError] = FormatError,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Parse a JSON text.

    Args:
        raw: the text, in UTF-8.
        path: the file, for messages.
        room: bytes of memory that the parsed text may take.
        where: the text's place in the file, for messages.
        error: the class of the error raised.
        object_pairs_hook: as for ``json.loads``.

    Raises:
        FormatError: the text is not JSON or not UTF-8, nested too deep, or would take more memory than ``room``.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.json_text import parse_json
        >>> parse_json(b'{"a": [1]}', Path("config.json"), room=1000)
        {'a': [1]}
    """
    if _cost(raw) > room:
        problem = f"{len(raw)} bytes of JSON would take more than {room >> 20} MB of memory"
        raise error(problem, path=path, where=where, hint="the file is damaged, or made to exhaust memory")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=object_pairs_hook)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        problem = "not JSON: half of a surrogate pair, which is not a character"
    except UnicodeDecodeError as wrong:
        problem = f"not UTF-8 at byte {wrong.start}"
    except json.JSONDecodeError as wrong:
        problem = f"not JSON: {wrong}"
    except ValueError:
        problem = "not JSON: a number of thousands of digits"
    except RecursionError:
        problem = "not JSON that can be read: nested too deep"
    raise error(problem, path=path, where=where, hint="download it again")


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} if there is no such file and it is not required.

    Raises:
        FormatError: the file is required and missing, cannot be read, or is not a JSON object.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if not required:
            return {}
        raise FormatError("no such file", path=path, hint="give the folder of a Hugging Face checkpoint") from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from None
    check_pointer(raw, path)
    data = parse_json(raw, path, room=len(raw) + ROOM)
    if not isinstance(data, dict):
        raise FormatError("is not a JSON object", path=path)
    return data


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write an object, or a list, as ``json_bytes`` gives it."""
    path.write_bytes(json_bytes(content))


def json_bytes(content: Mapping[str, Any] | list[Any]) -> bytes:
    """An object, or a list, as transformers writes it: indented by two, keys sorted."""
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def _cost(raw: bytes) -> int:
    """The most bytes that the parsed value takes, and the text while it is parsed."""
    width = 1 if raw.isascii() else 4  # one wide character makes all characters of a str wide
    escaped = 4 if b"\\u" in raw else width
    again = 6 * len(raw) if _SURROGATE.search(raw) else 0
    return again + (1 + width + escaped) * len(raw) + sum(cost * raw.count(sign) for sign, cost in _COSTS)
