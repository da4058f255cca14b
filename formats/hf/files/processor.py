"""What a checkpoint's processor files say of images and sound before they reach a tower.

They lie in several files: preprocessor_config.json, and processor_config.json since transformers 5, which holds an
object for each modality. llama.cpp's converter merges them in this order, the later ones over the earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_text import read_json
from ...json_types import OBJECT, take
from ..tables.tower import PROCESSOR, Tower

FILES = ("preprocessor_config.json", "processor_config.json")
OTHERS = ("video_preprocessor_config.json",)  # kept for the way back; no key of GGUF is of it


def read_processor(folder: Path, tower: Tower) -> dict[str, Any]:
    """The entries about a tower's inputs, of all files together; {} if there are none.

    Raises:
        FormatError: a file is no JSON object, or an object in it is none.
    """
    found: dict[str, Any] = {}
    for name in FILES:
        own = read_json(folder / name)
        inner = [take(own, key, OBJECT, path=folder / name) or {} for key in ("media_proc_cfg", tower.processor)]
        for entries in (own, *inner):
            found |= entries
    return _flat(found)


def _flat(entries: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Entries of objects under names with dots, too: ``size`` and ``size.longest_edge``."""
    out: dict[str, Any] = {}
    for key, value in entries.items():
        out |= {at + key: value} | (_flat(value, f"{at}{key}.") if isinstance(value, dict) else {})
    return out


def nested(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``_flat``."""
    out: dict[str, Any] = {}
    for name, value in entries.items():
        *around, last = name.split(".")
        inner = out
        for part in around:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out


def processor_texts(folder: Path) -> dict[str, str]:
    """The files as they stand, by name, for the way back."""
    found = {}
    for name in (*FILES, *OTHERS):
        if (folder / name).is_file():
            read_json(folder / name)
            found[name] = (folder / name).read_text(encoding="utf-8")
    return found


def check_complete(folder: Path, found: dict[str, Any], wanted: list[str]) -> None:
    """Check that the entries that rows need are there.

    Raises:
        FormatError: one is missing.
    """
    for key in wanted:
        if found.get(key.removeprefix(f"{PROCESSOR}.")) is None:
            name = key.removeprefix(f"{PROCESSOR}.")
            hint = f"download it, or give --{name.replace('_', '-')}"
            raise FormatError(f"no {name}, nor in {FILES[1]}", path=folder / FILES[0], hint=hint)
