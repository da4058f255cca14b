"""Which towers the checkpoint of a config.json has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnknownArchitecture, name_list
from ..json_text import read_json
from ..json_types import OBJECT, TEXT, TEXTS, shown, take
from .tables.tower import Tower
from .towers import BY_CLASS, REFUSED

THINKER = "thinker"  # what a part that thinks is called, beside one that talks
_OUTSIDE = ("architectures", "model_type", "transformers_version", "_name_or_path")


def read_outer(path: Path) -> dict[str, Any]:
    """A config.json; of a model that is published with a part that thinks, that part's, as transformers has it alone.

    Raises:
        FormatError: it is damaged, or no JSON object.
    """
    outer = read_json(path, required=True)
    thinker = take(outer, f"{THINKER}_config", OBJECT, path=path)
    return outer if thinker is None else {**thinker, **{key: value for key, value in outer.items() if key in _OUTSIDE}}


def towers_of(outer: Mapping[str, Any], path: Path) -> tuple[str, tuple[Tower, ...]]:
    """The model class that a config.json names, and its towers.

    Raises:
        UnknownArchitecture: it has none.
    """
    names = take(outer, "architectures", TEXTS, [], path=path)
    known = [name for name in names if name in BY_CLASS]
    if not known:
        what = name_list(names) if names else "no class"
        why = next((why for (name, _), why in REFUSED.items() if name in names), "")
        hint = why or "quantmill archs lists those that see or hear; without --mmproj the text model converts"
        raise UnknownArchitecture(f"{what} has no tower that is known", path=path, where="architectures", hint=hint)
    objects = [(tower, object_at(outer, tower.at, path)) for tower in BY_CLASS[known[0]]]
    given = [(tower, own) for tower, own in objects if own is not None]
    present = tuple(tower for tower, own in given if _takes(tower, known[0], own, path))
    taken = {tower.at for tower in present}
    for tower, own in given:
        if tower.at not in taken:
            why = REFUSED.get((known[0], str(own["model_type"])), f"known: {tower.kind(known[0])}")
            problem = f"{known[0]} around {shown(own['model_type'])} has no tower that is known"
            raise UnknownArchitecture(problem, path=path, where=f"{tower.at}.model_type", hint=why)
    if not present:
        places = name_list([tower.at for tower in BY_CLASS[known[0]]])
        raise FormatError(f"{known[0]} without {places}: there is no tower", path=path, hint="convert without --mmproj")
    return known[0], present


def _takes(tower: Tower, name: str, own: Mapping[str, Any], path: Path) -> bool:
    take(own, "model_type", TEXT, tower.kind(name), path=path, inside=f"{tower.at}.")
    return tower.takes(name, own)


def object_at(outer: Mapping[str, Any], place: str, path: Path) -> dict[str, Any] | None:
    """The object at a place, with dots; None if there is none."""
    found: Any = outer
    for part in place.split("."):
        found = take(found, part, OBJECT, path=path)
        if found is None:
            return None
    return dict(found)
