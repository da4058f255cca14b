"""The mmproj files of a release: the towers of a checkpoint that sees or hears."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import UnknownArchitecture, UnmatchedTensor
from ....formats.progress import Progress, note, notes

if TYPE_CHECKING:
    from ....formats.ir import Model

LEVELS = ("F16", "Q8_0")


def release_towers(model: Path, progress: Progress | None = None) -> Model | None:
    """Read the towers of a checkpoint; None if it has none, or none that is known, which is said.

    Raises:
        FormatError: a file is damaged, or what the processor does is written nowhere.
    """
    from ....formats.hf.mmproj import read_mmproj
    from ....formats.hf.tower_classes import towers_of
    from ....formats.json_text import read_json

    if not (model / "config.json").is_file():
        return None
    outer = read_json(model / "config.json", required=True)
    sees = any(isinstance(outer.get(f"{kind}_config"), dict) for kind in ("vision", "audio"))
    try:
        towers_of(outer, model / "config.json")
        return read_mmproj(model, say=notes(progress, important=True))
    except (UnknownArchitecture, UnmatchedTensor) as error:
        if sees:
            note(progress, f"no mmproj file: {error}", important=True)
        return None


def mmproj_name(stem: str, level: str) -> str:
    """The name of an mmproj file.

    Example:
        >>> mmproj_name("gemma-3-4b-it", "F16")
        'mmproj-gemma-3-4b-it-F16.gguf'
    """
    return f"mmproj-{stem}-{level}.gguf"


def sees_and_hears(towers: Model) -> tuple[bool, bool]:
    """Whether towers are of images, and whether of sound."""
    return towers.get("clip.has_vision_encoder") is True, towers.get("clip.has_audio_encoder") is True


def task(sees: bool, hears: bool) -> str:
    """The hub's pipeline tag of a model that makes text.

    Example:
        >>> task(False, False), task(True, False)
        ('text-generation', 'image-text-to-text')
    """
    if sees and hears:
        return "any-to-any"
    return "image-text-to-text" if sees else "audio-text-to-text" if hears else "text-generation"
