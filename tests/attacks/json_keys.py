"""Any JSON value at any key: which keys of a file there are to attack, and the file with one of them changed.

The keys are those that the file has, at any depth, and those that a reader looks up and does not find: a recording
dict takes the place of what ``formats/json_text.py``, by which all JSON of strangers comes in, parses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from zlib import crc32

from attacks import samples
from quantmill.formats import json_text
from quantmill.formats.hf import config
from quantmill.formats.hf.tables.rules import Arch, HFClass
from quantmill.formats.hf.tables.tower import OUTER, PROCESSOR, TEXT, TOKENS

Place = tuple[str | int, ...]  # the keys that lead to a value
Reader = Callable[[Path], object]

_BEYOND = "@beyond every float@"
# Written as JSON has them: 1e400 is a number that no float holds, the surrogate an escape.
VALUES: tuple[Any, ...] = (None, True, 0, -1, _BEYOND, 10**30, "", "x", "\ud83d", [], [[]], {}, {"a": {}})
# Of longer ones, which are data, only the first two entries and the last are attacked.
_LONG_LIST, _LONG_OBJECT = 3, 200


@dataclass(frozen=True)
class Sample:
    """A small valid folder, and what reads it.

    Args:
        name: for messages.
        files: their content: bytes, or the value of a JSON file, of a model card, of a safetensors file's header, or of
            the line of a journal.
        read: raises a ``FormatError``, or returns what was read in a form that can be compared.
        tail: what follows the header of safetensors files.
        head: the line before the JSON of a journal.
        kind: what tells the reader of a place in a file from those of other samples: where two samples have the same
            place of the same kind, the same code reads it. Without it, no other sample's is the same.
    """

    name: str
    files: dict[str, Any]
    read: Reader
    tail: bytes = b""
    head: str = ""
    kind: Callable[[Place], object] | None = None

    def content(self, name: str, value: Any) -> bytes:
        """A file's bytes."""
        if isinstance(value, bytes):
            return value
        text = json.dumps(value).replace(f'"{_BEYOND}"', "1e400")
        if name.endswith(".md"):
            return f"---\n{text}\n---\n".encode()
        if name == "journal":
            return samples.journal_line(self.head) + samples.journal_line(text)
        if name.endswith(".safetensors"):
            return len(text).to_bytes(8, "little") + text.encode() + self.tail
        return text.encode()

    def write(self, folder: Path) -> None:
        for name, value in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content(name, value))

    def cases(self, folder: Path) -> Iterator[Case]:
        """Every key of every file, with every value. The sample lies in the folder."""
        asked = self._asked(folder)
        for name, value in self.files.items():
            if not isinstance(value, bytes):
                places = dict.fromkeys([*_places(value), *sorted(asked.get(name, ()), key=str)])
                yield from (Case(self, name, place, new) for place in places for new in _in_turn(place))

    def kind_of(self, name: str, place: Place) -> object:
        """What reads a place in a file."""
        return (name, place, self.name if self.kind is None else self.kind(place))

    def _asked(self, folder: Path) -> dict[str, set[Place]]:
        """The keys that the reader asks for and that are not there, by file."""
        texts = {self.content(name, value): name for name, value in self.files.items() if not isinstance(value, bytes)}
        asked: dict[str, set[Place]] = {}

        def loads(text: str, object_pairs_hook: Any = None) -> Any:
            name = next((name for raw, name in texts.items() if text.encode() in raw), "")
            return _recorded(json.loads(text), asked.setdefault(name, set()), ())

        def with_defaults(given: config.Config, arch: Arch, cls: HFClass) -> dict[str, Any]:
            theirs = {ours: name for name, ours in cls.names.items()}
            named = _Names(theirs, cls.parts, getattr(arch, "at", ""), asked)
            return _Recorder(complete(given, arch, cls), named, ())

        complete = config.with_defaults
        parser = SimpleNamespace(loads=loads, dumps=json.dumps, JSONDecodeError=json.JSONDecodeError)
        with mock.patch.object(json_text, "json", parser), mock.patch.object(config, "with_defaults", with_defaults):
            self.read(folder)
        return asked


@dataclass(frozen=True)
class Case:
    """One key of one file of a sample, with another value."""

    sample: Sample
    name: str
    place: Place
    new: Any

    def __str__(self) -> str:
        keys = ".".join(str(key)[:40] for key in self.place)
        return f"{self.sample.name}: {self.name}: {keys} = {json.dumps(self.new)}"

    @property
    def of_another_type(self) -> bool:
        """Whether the key had a value, and has now one of another type, which is not null."""
        return None not in (self.old, self.new) and _type(self.old) is not _type(self.new)

    @property
    def old(self) -> Any:
        """The value that the key had; None if there was no such key."""
        value = self.sample.files[self.name]
        for key in self.place:
            if isinstance(value, list):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return None
        return value

    @property
    def kind(self) -> object:
        """The same for two cases that ask the same of the same code: a type of JSON at a place."""
        return self.sample.kind_of(self.name, self.place), _type(self.new)

    def write(self, folder: Path) -> None:
        value = _changed(self.sample.files[self.name], self.place, self.new)
        (folder / self.name).write_bytes(self.sample.content(self.name, value))

    def undo(self, folder: Path) -> None:
        (folder / self.name).write_bytes(self.sample.content(self.name, self.sample.files[self.name]))


def _changed(value: Any, place: Place, new: Any) -> Any:
    """A copy with the value at a place replaced; a key that is not there is made."""
    if not place:
        return new
    key, *rest = place
    out = value.copy() if isinstance(value, (dict, list)) else {}
    inner = out[key] if isinstance(out, list) else out.get(key)
    out[key] = _changed(inner, tuple(rest), new)
    return out


def _in_turn(place: Place) -> tuple[Any, ...]:
    """The values, of which another one comes first at each place."""
    first = crc32(str(place).encode()) % len(VALUES)
    return VALUES[first:] + VALUES[:first]


def _places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The places of all values inside a value."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value))) if _is_list(value) else []
    if len(keys) > (_LONG_LIST if _is_list(value) else _LONG_OBJECT):
        keys = [*keys[:2], keys[-1]]
    for key in keys:
        yield (*at, key)
        yield from _places(value[key], (*at, key))


def _type(value: Any) -> type:
    return float if type(value) is int or value == _BEYOND else type(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _recorded(value: Any, log: set[Place], at: Place) -> Any:
    if isinstance(value, dict):
        return _Recorder({key: _recorded(one, log, (*at, key)) for key, one in value.items()}, log, at)
    return [_recorded(one, log, (*at, i)) for i, one in enumerate(value)] if isinstance(value, list) else value


class _Recorder(dict[str, Any]):
    """A dict that notes the keys that are asked for and that it has not."""

    def __init__(self, content: dict[str, Any], log: Any, at: Place) -> None:
        super().__init__(content)
        self.log, self.at = log, at

    def _note(self, key: Any) -> None:
        if isinstance(key, str) and not super().__contains__(key):
            self.log.add((*self.at, key))

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def copy(self) -> _Recorder:
        return _Recorder(dict(self), self.log, self.at)


@dataclass(frozen=True)
class _Names:
    """Notes the keys of a completed config under the names and in the files that a checkpoint has them in.

    Args:
        theirs: the class's names of quantmill's keys.
        parts: of nested keys; for a tower's, the objects around it.
        tower: the place of a tower's object; empty for a text model's config.
        log: places by file.
    """

    theirs: dict[str, str]
    parts: tuple[str, ...]
    tower: str
    log: dict[str, set[Place]]

    def add(self, place: Place) -> None:
        name = str(self.theirs.get(str(place[0]), place[0]))
        part, _, inner = name.partition(".")
        around = tuple(self.tower.split(".")) if self.tower else ()
        if part == PROCESSOR:
            self._add("preprocessor_config.json", tuple(inner.split(".")))
        elif part in (TEXT, OUTER) and self.tower:
            self._add("config.json", (*around[:-1], *([TEXT] if part == TEXT else []), inner))
        elif part != TOKENS:
            self._add("config.json", (*around, *((part, inner) if part in self.parts and inner else (name,))))

    def _add(self, file: str, place: Place) -> None:
        self.log.setdefault(file, set()).add(place)
