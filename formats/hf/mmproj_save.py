"""Restore the towers of an mmproj file, to be written beside their text model as one checkpoint."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnknownArchitecture, UnmatchedTensor, name_list
from ..ir import Model, Tensor
from ..json_text import json_bytes
from ..qtypes import BY_NAME, QType
from .config import config_for_class, with_defaults, with_recorded
from .files.generation import read_private
from .files.processor import FILES, OTHERS, nested
from .mmproj import CLASS, FILE, PRIVATE, REST, TYPE
from .tables.extras import TIED
from .tables.rules import Slot
from .tables.tower import OUTER, PARTS, PROCESSOR, TEXT, Tower
from .tower_sizes import derive_tower
from .towers import BY_CLASS, TOWERS

_NAMES = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")


@dataclass(frozen=True)
class RestoredTower:
    """A tower of an mmproj file.

    Args:
        tower: its table.
        known: its completed config, with which its rules are read.
        config: its object of config.json.
        around: what its rows know of the objects around it: ``text_config``, ``outer``, ``preprocessor_config``.
        slots: its tensors by the rules.
        model: its tensors alone.
        roots: the beginnings of names, of those in ``Tower.roots``, that the checkpoint has.
        dtype: the type that most of its tensors have in the checkpoint; None if nothing says so.
        others: the types of the other tensors, by the rules' names.
    """

    tower: Tower
    known: Mapping[str, Any]
    config: dict[str, Any]
    around: dict[str, dict[str, Any]]
    slots: Sequence[Slot]
    model: Model
    roots: tuple[str, ...]
    dtype: QType | None
    others: Mapping[str, QType]

    def name_of(self, name: str) -> str:
        """The checkpoint's name of a tensor, for the rules'."""
        for root in self.roots:
            ours = self.tower.roots.get(root, "")
            if ours and name.startswith(ours):
                return root + name.removeprefix(ours)
        return name


def restore_towers(
    model: Model, fitting: Container[str] = (), *, whole: bool = True
) -> tuple[str, tuple[RestoredTower, ...]]:
    """The model class of an mmproj file's checkpoint, and its towers.

    Args:
        model: the file's.
        fitting: the classes that the text model may be of, for a file that names none.
        whole: refuse a file that lacks tensors.

    Raises:
        UnknownArchitecture: it is no mmproj file, or its projector is unknown.
        UnmatchedTensor: a tensor is missing, or belongs to no rule.
    """
    found = [value for key in _NAMES if isinstance(value := model.get(key), str)]
    if model.arch != "clip" or not found:
        raise UnknownArchitecture("is no mmproj file", path=model.path, where="general.architecture")
    name = model.get(CLASS)
    known = BY_CLASS.get(name, ()) if isinstance(name, str) else ()
    towers = [one for one in (known or TOWERS) if one.projector in found]
    if not towers:
        every = sorted({tower.projector for tower in TOWERS})
        near = get_close_matches(found[0], every, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(every)}"
        raise UnknownArchitecture(f"unknown projector {found[0]!r}", path=model.path, where=_NAMES[0], hint=hint)
    having = dict.fromkeys(cls for tower in towers for cls in tower.classes)
    classes = [str(name)] if known else sorted(having, key=lambda cls: cls not in fitting)
    problems = []
    for cls in classes:
        try:
            return cls, _restore_all([tower for tower in towers if cls in tower.classes], cls, model, whole=whole)
        except FormatError as error:
            problems.append(error)
    raise problems[0]


def _restore_all(towers: Sequence[Tower], cls: str, model: Model, *, whole: bool) -> tuple[RestoredTower, ...]:
    """The towers of a class. Raises ``UnmatchedTensor`` if the file's tensors are not theirs."""
    given = {tensor.name: tensor for tensor in model.tensors}
    restored = tuple(_restore(tower, cls, model, given) for tower in towers)
    slots = [slot for one in restored for slot in one.slots if slot.required]
    have = {tensor.name for one in restored for tensor in one.model}
    missing = [name for slot in slots for name in slot.targets if name not in have] if whole else []
    for problem, names in ((f"no rule of {towers[0].projector} matches", list(given)), ("missing", missing)):
        if names:
            raise UnmatchedTensor(f"{problem} {name_list(names)}", path=model.path)
    return restored


def missing_tensors(model: Model) -> tuple[str, ...]:
    """The tensors that an mmproj file lacks by its projector's rules; none of a file that the rules do not know."""
    try:
        towers = restore_towers(model, whole=False)[1]
    except FormatError:
        return ()
    names = {tensor.name for tensor in model.tensors}
    slots = (slot for one in towers for slot in one.tower.slots(one.known))
    return tuple(name for slot in slots if slot.required for name in slot.targets if name not in names)


def _restore(tower: Tower, name: str, model: Model, given: dict[str, Tensor]) -> RestoredTower:
    """One tower; its tensors leave ``given``."""
    cls = replace(tower.classes[name], parts=PARTS)
    at = f"{PRIVATE}{tower.modality}."
    derived = derive_tower(tower, cls, model.metadata, model.tensors, model.path)
    recorded = read_private(model.metadata.get(at + "config"))
    config = with_defaults(with_recorded(derived, recorded, tower, cls, model.path), tower, cls)
    every = list(tower.slots(config))
    slots = [slot for slot in every if not slot.rule.borrowed]
    names = {target for slot in slots for target in slot.targets}
    own = replace(model, tensors=tuple(given.pop(one) for one in list(given) if one in names))
    for slot in every:
        for target in slot.targets:
            given.pop(target, None)
    written = config_for_class({**derived, **recorded}, recorded, tower, cls)
    around = {part: written.pop(part, {}) for part in PARTS}
    dtype = model.get(at + "dtype")
    known = model.get(CLASS) == name
    roots = model.metadata[at + "roots"].texts if at + "roots" in model.metadata else () if known else tower.written
    lines = model.metadata[at + "dtypes"].texts if at + "dtypes" in model.metadata else ()
    others = {one: BY_NAME[kind] for kind, _, one in (line.partition(" ") for line in lines) if kind in BY_NAME}
    return RestoredTower(
        tower=tower,
        known=config,
        config={"model_type": cls.model_type, **written},
        around=around,
        slots=slots,
        model=own,
        roots=tuple(roots),
        dtype=BY_NAME.get(dtype) if isinstance(dtype, str) else None,
        others=others,
    )


def whole_config(
    model: Model, name: str, towers: Sequence[RestoredTower], text: dict[str, Any], path: Path
) -> dict[str, Any]:
    """config.json of a checkpoint that holds a text model and its towers.

    Args:
        text: config.json of the text model alone.
        path: the text model's, for messages.

    Raises:
        FormatError: the towers are of another model.
    """
    around = {key: value for key, value in text.items() if key != TEXT} if TEXT in text else {}
    own = ("architectures", "torch_dtype", "dtype")
    inner = {key: value for key, value in text.get(TEXT, text).items() if key not in own}
    kind = model.get(TYPE) or next(one.tower.classes[name].wraps for one in towers)
    rest = read_private(model.metadata.get(REST))
    if isinstance(flags := rest.pop(TEXT, None), dict):
        inner = {key: value for key, value in inner.items() if key != TIED} | flags
    config = {**around, **rest, "architectures": [name], "model_type": kind}
    config[TEXT] = inner
    for one in towers:
        width = one.around[TEXT].get("hidden_size")
        if width is not None and width != inner.get("hidden_size"):
            problem = f"its embeddings are {width} wide, those of {path.name} {inner.get('hidden_size')}"
            raise FormatError(problem, path=model.path, hint="is it the mmproj file of this model?")
        config = {**one.around[OUTER], **config}
        _place(config, one.tower.at, one.config)
    return config


def _place(config: dict[str, Any], at: str, own: dict[str, Any]) -> None:
    *around, last = at.split(".")
    for part in around:
        config = config.setdefault(part, {})
    config[last] = own


def text_name(name: str, tower: Tower) -> str:
    """The name of a text model's tensor beside a tower."""
    ours = next((ours for ours in tower.text if name.startswith(ours)), None)
    return name if ours is None else tower.text[ours] + name.removeprefix(ours)


def processor_files(model: Model, towers: Sequence[RestoredTower]) -> dict[str, bytes]:
    """The processor's files, as they were, or what the file's keys hold of them."""
    kept = {
        key.removeprefix(FILE): str(value.data).encode()
        for key, value in model.metadata.items()
        if key.removeprefix(FILE) in (*FILES, *OTHERS)
    }
    if kept:
        return kept
    entries: dict[str, Any] = {}
    for one in towers:
        entries |= one.around[PROCESSOR]
    return {"preprocessor_config.json": json_bytes(nested(entries))} if entries else {}
