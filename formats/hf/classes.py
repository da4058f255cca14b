"""Find the architecture and the model class of a config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnknownArchitecture, name_list
from ..json_text import read_json
from ..json_types import FLAG, OBJECT, take
from .archs import ARCHS, BY_CLASS, BY_MODEL_TYPE, REFUSED
from .config import of_class, text_config
from .settle import Say
from .tables.dimensions import WRAPPER
from .tables.extras import TIED
from .tables.rules import Arch, stem

_COMMON = 3  # letters that the names of a family begin with, at least: GPT, Phi
_GUIDE = "see docs/adding-an-architecture.md"


def read_config(path: Path, say: Say | None = None) -> tuple[dict[str, Any], Arch, str]:
    """Read a config.json: the text model's config, its architecture, and its class, a key of ``Arch.classes``.

    Raises:
        FormatError: there is no such file, it is no JSON, or its ``text_config`` is no object; and as for
            ``arch_of_config``.
    """
    outer = read_json(path, required=True)
    thinker = take(outer, "thinker_config", OBJECT, path=path) or {}
    if "text_config" in thinker:
        outer = {**thinker, **{key: outer[key] for key in ("architectures", "_name_or_path") if key in outer}}
    take(outer, TIED, FLAG, path=path)
    outer.pop(WRAPPER, None)
    raw = text_config(outer)
    arch, name = arch_of_config(raw, path, say)
    cls = arch.classes[name]
    if cls.text_of or cls.wraps or "/" in name:
        take(outer, "text_config", OBJECT, path=path)
        raw = of_class(raw, outer, cls)
    elif outer.get("model_type") == cls.model_type:
        raw = outer  # transformers' config of a text model has no other inside
    return raw, arch, name


def arch_of_config(raw: Mapping[str, Any], path: Path, say: Say | None = None) -> tuple[Arch, str]:
    """The architecture of the model class that config.json names, and that class, a key of ``Arch.classes``.

    A config that names no class is of the one that transformers chooses by ``model_type``.

    Args:
        raw: the text model's config.
        path: the config.json's, for messages.
        say: called with a line where a class was assumed.

    Raises:
        UnknownArchitecture: config.json names neither class nor type, or one that no architecture has.
        FormatError: classes, or class and type, are of different models.
    """
    names, kind = _names(raw, path), raw.get("model_type")
    of_type = BY_MODEL_TYPE.get(kind, ()) if isinstance(kind, str) else ()
    if names:
        chosen = _by_names(names, kind, of_type, raw, path)
        if say and chosen.partition("/")[0] != names[0]:
            say(f"{path}: {_told(names, kind)}: taken for {chosen.partition('/')[0]}")
    else:
        chosen = _by_type(kind, of_type, path)
        if say:
            say(f"{path}: names no model class: taken for {chosen}, by its model_type {kind}")
    chosen = next((key for key in BY_CLASS if key.startswith(f"{chosen}/") and _is_of(key, raw)), chosen)
    return BY_CLASS[chosen], chosen


def _is_of(key: str, raw: Mapping[str, Any]) -> bool:
    """Whether a config is of an architecture that has some models of its class."""
    when = BY_CLASS[key].classes[key].when
    return when is not None and when(raw)


def _names(raw: Mapping[str, Any], path: Path) -> list[str]:
    """The classes, without the module of code that comes with a checkpoint (``modeling_x.XForCausalLM``)."""
    names = raw.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UnknownArchitecture("is not a list of model classes", path=path, where="architectures")
    return [name.rpartition(".")[2] for name in names]


def _by_names(names: list[str], kind: Any, of_type: tuple[str, ...], raw: Mapping[str, Any], path: Path) -> str:
    """The first class that is known and of the right type. transformers goes by the type alone."""
    known = [next((key for key in (f"{name}/{kind}", name) if key in BY_CLASS), "") for name in names]
    known = [name for name in known if name]
    if not known:
        if names[0] in REFUSED:
            raise UnknownArchitecture(f"{names[0]}: {REFUSED[names[0]]}", path=path, where="architectures", hint=_GUIDE)
        problem = f"unknown model class {names[0]!r}{_origin(names[0], raw)}"
        raise UnknownArchitecture(problem, path=path, where="architectures", hint=_hint(names[0], kind, of_type))
    archs = {BY_CLASS[name].name for name in of_type or known} & {BY_CLASS[name].name for name in known}
    if len(archs) != 1:
        problem = f"{_told(names, kind)}: different models"
        raise FormatError(problem, path=path, where="architectures", hint="keep what the weights are of")
    first = next(name for name in known if BY_CLASS[name].name in archs)
    if not of_type or first in of_type:
        return first
    bare = BY_CLASS[first].classes[first].bare
    return next(name for name in of_type if BY_CLASS[name].classes[name].bare is bare)


def _by_type(kind: Any, of_type: tuple[str, ...], path: Path) -> str:
    if of_type:
        return of_type[0]
    if not isinstance(kind, str) or not kind:
        raise UnknownArchitecture("names no model class, nor a model_type", path=path, where="architectures")
    problem = f"unknown model_type {kind!r}, and architectures names no class"
    raise UnknownArchitecture(problem, path=path, where="model_type", hint=_hint(kind, kind, ()))


def _told(names: list[str], kind: Any) -> str:
    return f"architectures {name_list(names)}" + (f", model_type {kind}" if isinstance(kind, str) else "")


def _origin(name: str, raw: Mapping[str, Any]) -> str:
    """Says so if the class is of code that comes with the checkpoint."""
    code = raw.get("auto_map")
    places = code.values() if isinstance(code, Mapping) else ()
    return ", of code that comes with the checkpoint" if any(str(at).endswith(f".{name}") for at in places) else ""


def _hint(name: str, kind: Any, of_type: tuple[str, ...]) -> str:
    """Names the class of the same type, or else one of the same family."""
    if of_type:
        return f"its model_type {kind} is that of {of_type[0]}; {_GUIDE}"
    wanted = {_letters(stem(name)), _letters(kind) if isinstance(kind, str) else ""}
    near = [(_nearness(one, other), -len(other), key) for one in wanted for key, other in _families()]
    score, _, key = max(near, key=lambda each: each[:2])
    return f"of the same family: {key}; {_GUIDE}" if score >= _COMMON else f"quantmill archs lists the known; {_GUIDE}"


def _families() -> Iterator[tuple[str, str]]:
    for arch in ARCHS:
        for key, cls in arch.classes.items():
            if not cls.text_of and not cls.bare:
                yield key, _letters(stem(key))
                yield key, _letters(cls.model_type)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _nearness(wanted: str, known: str) -> int:
    """How many letters two names have in common: at their beginning, or all of the known one."""
    if len(known) > _COMMON and known in wanted:
        return len(known)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, known, strict=False)))
