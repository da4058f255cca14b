"""Conditions on kinds of layers, and on what configs say of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...json_types import NUMBERS, TEXT, TEXTS, WHOLE, either, optional
from . import rope
from .dimensions import Condition, Config, Dim
from .reads import LAYER_TYPES, OfParts, Reads, of_example


@dataclass(frozen=True)
class NoOther(Condition):
    """A key has no other value than this one: it may be missing, or null."""

    key: str
    value: Any

    def reads(self) -> Reads:
        return {self.key: WHOLE if isinstance(self.value, Dim) else of_example(self.value)}

    def __call__(self, config: Config) -> bool:
        wanted = self.value(config) if isinstance(self.value, Dim) else self.value
        return config.get(self.key) in (None, wanted)


@dataclass(frozen=True)
class HasWord(Condition):
    """A key has this word for some layer."""

    key: str
    word: str

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        return self.word in (config.get(self.key) or ())


@dataclass(frozen=True)
class SameRope(Condition):
    """An entry of ``rope_parameters`` is the same in layers with a window and in those without, if there are both."""

    entry: str

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS}

    def __call__(self, config: Config) -> bool:
        of_kind = config.get("rope_parameters") or {}
        kinds = {*(config.get("layer_types") or ())}
        return len({(of_kind.get(kind) or {}).get(self.entry) for kind in kinds}) < 2


@dataclass(frozen=True)
class RopeIs(Condition):
    """An entry of ``rope_parameters`` has this value in layers of a kind, if there are any."""

    kind: str
    entry: str
    value: Any

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS}

    def __call__(self, config: Config) -> bool:
        of_kind = (config.get("rope_parameters") or {}).get(self.kind) or {}
        return self.kind not in (config.get("layer_types") or ()) or of_kind.get(self.entry) == self.value


@dataclass(frozen=True)
class Together(Condition):
    """Some layer has all these words: of each key, its word."""

    words: Mapping[str, str]

    def reads(self) -> Reads:
        return dict.fromkeys(self.words, TEXTS)

    def __call__(self, config: Config) -> bool:
        each = ([word == wanted for word in config.get(key) or ()] for key, wanted in self.words.items())
        return any(all(found) for found in zip(*each, strict=False))


@dataclass(frozen=True)
class Unscaled(OfParts, Condition):
    """The rope is as it is without scaling."""

    def __call__(self, config: Config) -> bool:
        found = config.get("rope_scaling") or config.get("rope_parameters") or {}
        return found.get("rope_type", found.get("type")) in (None, "default")


@dataclass(frozen=True)
class TurnsInOneKind(Condition):
    """A key has the rope's base for each layer of a kind, and 0 for all others, which have no positions.

    Without the key, each fourth layer counted from the last has none, as transformers has it for Muse Glimmer.
    """

    key: str
    kind: str

    def reads(self) -> Reads:
        return {self.key: optional(NUMBERS), LAYER_TYPES: TEXTS}

    def __call__(self, config: Config) -> bool:
        turning = [word == self.kind for word in config.get("layer_types") or ()]
        bases = config.get(self.key)
        if bases is None:
            return turning == [layer % 4 != 0 for layer in reversed(range(len(turning)))]
        base = (config.get("rope_parameters") or config).get("rope_theta") or rope.DEFAULT_THETA
        return isinstance(bases, list) and bases == [base if turns else 0 for turns in turning]


@dataclass(frozen=True)
class Contains(Condition):
    """The text or list of a key contains this."""

    key: str
    item: str

    def reads(self) -> Reads:
        return {self.key: either(TEXT, TEXTS)}

    def __call__(self, config: Config) -> bool:
        found = config.get(self.key)
        return isinstance(found, (str, list)) and self.item in found


@dataclass(frozen=True)
class Alike(Condition):
    """Two keys have the same value."""

    left: str
    right: str

    def reads(self) -> Reads:
        return {self.left: None, self.right: None}

    def __call__(self, config: Config) -> bool:
        return bool(config.get(self.left) == config.get(self.right))


@dataclass(frozen=True)
class BeginsWith(Condition):
    """A key's word of the first layer is this one."""

    key: str
    word: str

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        words = config.get(self.key)
        return isinstance(words, list) and words[:1] == [self.word]


@dataclass(frozen=True)
class EndsWith(Condition):
    """A key's word of the last layer is this one."""

    key: str
    word: str

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        words = config.get(self.key)
        return isinstance(words, list) and words[-1:] == [self.word]


@dataclass(frozen=True)
class AllAmongFirst(Condition):
    """Each word that a key has for any layer, it has for one of the first ``count`` layers."""

    key: str
    count: Dim

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        words = config.get(self.key) or []
        return {*words} == {*words[: max(0, self.count(config))]}


@dataclass(frozen=True)
class Paired(Condition):
    """A key's word for each layer goes with the one that another key has for it."""

    key: str
    other: str
    pairs: Mapping[str, str]

    def reads(self) -> Reads:
        return {self.key: TEXTS, self.other: TEXTS}

    def __call__(self, config: Config) -> bool:
        return [self.pairs.get(word) for word in config.get(self.key) or ()] == config.get(self.other)
