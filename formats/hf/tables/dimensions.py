"""Numbers and conditions in terms of config keys: what shapes, ops and rules are written with.

A config here is complete (``config.complete_config``) and seen from a layer (``at_layer``): a key with a value for each
layer reads as that layer's value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from operator import add, floordiv, mod, mul, sub
from typing import Any

from ...errors import FormatError
from ...json_types import LIST, NUMBER, NUMBERS, OBJECT, TEXTS, WHOLE, WHOLES, either, optional, shown
from .reads import LAYER_TYPES, OfParts, Reads, of_example

Config = Mapping[str, Any]

Implied = Callable[[Config], Any]  # a value implied by other keys: a Dim, If, LayerPattern...

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": add, "-": sub, "*": mul, "//": floordiv, "%": mod, "root": lambda n, _: isqrt(n),
}  # fmt: skip


@dataclass(frozen=True)
class Dim:
    """A dimension: a config key's number, a fixed number, or two dimensions joined by ``+ - * // %``.

    Example:
        >>> from quantmill.formats.hf.tables.dimensions import HEAD_DIM, HEADS, KV_HEADS
        >>> rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        >>> rows({"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64})
        768
    """

    of: str | int | tuple[str, Dim, Dim]

    def reads(self) -> Reads:
        return {self.of: WHOLE} if isinstance(self.of, str) else {}

    def __call__(self, config: Config) -> int:
        """Compute its value for a config.

        Raises:
            FormatError: a key is missing, or is not a whole number of 0 or more, or would divide by 0.
        """
        if isinstance(self.of, int):
            return self.of
        if isinstance(self.of, str):
            value = config.get(self.of)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise FormatError(f"{shown(value)} is not a valid size", where=self.of)
            return value
        sign, left, right = self.of
        one, other = left(config), right(config)
        if other == 0 and sign in ("//", "%"):
            raise FormatError("0 is not a valid size", where=right.of if isinstance(right.of, str) else None)
        return _OPERATORS[sign](one, other)

    def _join(self, sign: str, other: Dim | int, swap: bool = False) -> Dim:
        sides = (self, other if isinstance(other, Dim) else Dim(other))
        return Dim((sign, *(sides[::-1] if swap else sides)))

    def __add__(self, other: Dim | int) -> Dim:
        return self._join("+", other)

    def __sub__(self, other: Dim | int) -> Dim:
        return self._join("-", other)

    def __mul__(self, other: Dim | int) -> Dim:
        return self._join("*", other)

    def __radd__(self, other: int) -> Dim:
        return self._join("+", other, swap=True)

    def __rmul__(self, other: int) -> Dim:
        return self._join("*", other, swap=True)

    def __floordiv__(self, other: Dim | int) -> Dim:
        return self._join("//", other)

    def __mod__(self, other: Dim | int) -> Dim:
        return self._join("%", other)

    @property
    def root(self) -> Dim:
        """The whole part of its square root: the side of a square grid."""
        return self._join("root", 0)

    def __lt__(self, other: Dim | int) -> Condition:
        return Less(self, other if isinstance(other, Dim) else Dim(other))

    def __ge__(self, other: Dim | int) -> Condition:
        return ~(self < other)


@dataclass(frozen=True)
class LayerPattern(OfParts):
    """A word for each layer: one layer in ``every`` has the other word, the last of them, or the ``first``.

    Args:
        usual, other: the two words.
        every: how many layers the pattern repeats after; 0 and 1 both mean that all have the other word.
        first: the other word is that of the first layer in ``every``, not of the last.
        skip: layers at the beginning that have the other word, before the pattern begins with the last of them.
        last: the pattern is counted from the last layer, which has the other word.

    Example:
        >>> from quantmill.formats.hf.tables.dimensions import Dim, LayerPattern
        >>> LayerPattern("sliding", "full", Dim(3))({"num_hidden_layers": 4})
        ['sliding', 'sliding', 'full', 'sliding']
    """

    usual: str
    other: str
    every: Dim | OrDefault
    first: bool = False
    skip: Dim | OrDefault | None = None
    last: bool = False

    def __call__(self, config: Config) -> list[str]:
        every = self.every(config) or 1
        if self.last:
            return [self.usual if layer % every else self.other for layer in reversed(range(LAYERS(config)))]
        shift = (0 if self.first else 1) - (self.skip(config) if self.skip else 0)
        return [self.usual if max(layer + shift, 0) % every else self.other for layer in range(LAYERS(config))]


@dataclass(frozen=True)
class LeadingLayers(OfParts):
    """A word for each layer: one for the first ``count`` of them, another for the rest.

    Example:
        >>> from quantmill.formats.hf.tables.dimensions import Dim, LeadingLayers
        >>> LeadingLayers("dense", "sparse", Dim(1))({"num_hidden_layers": 3})
        ['dense', 'sparse', 'sparse']
    """

    first: str
    rest: str | LayerPattern
    count: Dim | OrDefault

    def __call__(self, config: Config) -> list[str]:
        count = self.count(config)
        rest = [self.rest] * LAYERS(config) if isinstance(self.rest, str) else self.rest(config)
        return [self.first if layer < count else word for layer, word in enumerate(rest)]


@dataclass(frozen=True)
class LayerOverrides:
    """``per_layer_config``: config keys that have another value in layers of one kind.

    Args:
        kind: the word of these layers in ``layer_types``.
        keys: config keys, and the keys that hold their value in these layers.
    """

    kind: str
    keys: Mapping[str, str]

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS, **dict.fromkeys(self.keys.values(), WHOLE)}

    def __call__(self, config: Config) -> dict[str, dict[str, Any]]:
        other = {key: config[held] for key, held in self.keys.items() if config.get(held) is not None}
        return {str(layer): other for layer, word in enumerate(config["layer_types"] or ()) if word == self.kind}


@dataclass(frozen=True)
class Number:
    """A config key's number, whole or not, or the one at a place in the list that it holds."""

    key: str
    at: int | None = None

    def reads(self) -> Reads:
        return {self.key: NUMBER if self.at is None else NUMBERS}

    def __call__(self, config: Config) -> float:
        found = config.get(_WHOLE, config).get(self.key)
        if self.at is not None:
            found = found[self.at] if isinstance(found, list) and self.at < len(found) else None
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            place = "" if self.at is None else f"[{self.at}]"
            raise FormatError(f"{shown(found)} is not a number", where=self.key + place)
        return float(found)


@dataclass(frozen=True)
class OrDefault:
    """A config key's number, or a default if the key is missing."""

    key: str
    number: int

    def reads(self) -> Reads:
        return {self.key: WHOLE}

    def __call__(self, config: Config) -> int:
        return self.number if config.get(self.key) is None else Dim(self.key)(config)


@dataclass(frozen=True)
class CountOf:
    """How many entries a config key has, or a default if the key is missing."""

    key: str
    default: int

    def reads(self) -> Reads:
        return {self.key: optional(either(LIST, OBJECT))}

    def __call__(self, config: Config) -> int:
        return self.default if config.get(self.key) is None else len(config[self.key])


@dataclass(frozen=True)
class Share:
    """One config key's number as a part of another's; None if the first is missing."""

    key: str
    of: Dim

    def reads(self) -> Reads:
        return {self.key: WHOLE}

    def __call__(self, config: Config) -> float | None:
        return None if config.get(self.key) is None else Dim(self.key)(config) / (self.of(config) or 1)


@dataclass(frozen=True)
class Reciprocal:
    """1 divided by a config key's number; None if it is missing or 0."""

    key: str

    def reads(self) -> Reads:
        return {self.key: NUMBER}

    def __call__(self, config: Config) -> float | None:
        return 1.0 / config[self.key] if config.get(self.key) else None


@dataclass(frozen=True)
class Rotary:
    """How many dimensions of a head turn."""

    def reads(self) -> Reads:
        return HEAD_DIM.reads()

    def __call__(self, config: Config) -> int:
        return int(HEAD_DIM(config) * config["rope_parameters"].get("partial_rotary_factor", 1.0))


@dataclass(frozen=True)
class Root(OfParts):
    """The square root of one dimension's part of another."""

    over: Dim
    under: Dim

    def __call__(self, config: Config) -> float:
        return float((self.over(config) / (self.under(config) or 1)) ** 0.5)


@dataclass(frozen=True)
class Condition(ABC):
    """Something that is true or false of a config, or of a layer; ``~a``, ``a & b`` and ``a | b`` work as expected."""

    @abstractmethod
    def reads(self) -> Reads: ...

    @abstractmethod
    def __call__(self, config: Config) -> bool: ...

    def __invert__(self) -> Condition:
        return Not(self)

    def __and__(self, other: Condition) -> Condition:
        return Both(self, other)

    def __or__(self, other: Condition) -> Condition:
        return ~(~self & ~other)


@dataclass(frozen=True)
class Is(Condition):
    """A key has this value; without a value, one that Python takes for true."""

    key: str
    value: Any = None

    def reads(self) -> Reads:
        return {self.key: TEXTS if self.key in (LAYER_TYPES, MLP_TYPES) else of_example(self.value)}

    def __call__(self, config: Config) -> bool:
        found = config.get(self.key)
        return bool(found) if self.value is None else found == self.value


@dataclass(frozen=True)
class If(OfParts):
    """One of two dimensions, by a condition."""

    condition: Condition
    then: Dim
    otherwise: Dim

    def __call__(self, config: Config) -> int:
        return (self.then if self.condition(config) else self.otherwise)(config)


@dataclass(frozen=True)
class Less(OfParts, Condition):
    """One dimension is less than another: ``LAYER_INDEX < Dim("first_k_dense_replace")``."""

    left: Dim
    right: Dim

    def __call__(self, config: Config) -> bool:
        return self.left(config) < self.right(config)


@dataclass(frozen=True)
class Equal(OfParts, Condition):
    """Two dimensions are equal."""

    left: Dim | CountOf
    right: Dim | If

    def __call__(self, config: Config) -> bool:
        return self.left(config) == self.right(config)


@dataclass(frozen=True)
class Follows(Condition):
    """A key's word for each layer is that of a pattern, if the pattern says any."""

    key: str
    pattern: Implied

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        words = self.pattern(config)
        return words is None or bool(config.get(self.key) == words)


@dataclass(frozen=True)
class HasWords(Condition):
    """A key's list has each of these words."""

    key: str
    words: tuple[str, ...]

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> bool:
        found = config.get(self.key)
        return isinstance(found, list) and all(word in found for word in self.words)


@dataclass(frozen=True)
class Uniform(Condition):
    """A key's value is the same in all layers."""

    key: str

    def reads(self) -> Reads:
        return {self.key: None}

    def __call__(self, config: Config) -> bool:
        count = LAYERS(config)
        return all(at_layer(config, layer, count).get(self.key) == config.get(self.key) for layer in range(count))


@dataclass(frozen=True)
class LayerIn(Condition):
    """The layer's number is in the list that a key holds.

    Args:
        key: the config key.
        first: the number of the first layer there.
    """

    key: str
    first: int = 0

    def reads(self) -> Reads:
        return {self.key: optional(WHOLES)}

    def __call__(self, config: Config) -> bool:
        whole = config.get(_WHOLE, config)
        return LAYER_INDEX(config) + self.first in (whole.get(self.key) or ())


@dataclass(frozen=True)
class Not(OfParts, Condition):
    what: Condition

    def __call__(self, config: Config) -> bool:
        return not self.what(config)


@dataclass(frozen=True)
class Both(OfParts, Condition):
    left: Condition
    right: Condition

    def __call__(self, config: Config) -> bool:
        return self.left(config) and self.right(config)


@dataclass(frozen=True)
class Always(OfParts, Condition):
    def __call__(self, config: Config) -> bool:
        return True


class Maybe(Always):
    """Always true, but what it applies to may be missing from a checkpoint."""


ALWAYS = Always()
NEVER = ~ALWAYS
MAYBE = Maybe()

LAYER_INDEX = Dim("layer")
LAYERS = Dim("num_hidden_layers")
FURTHER = "further_layers"  # how many of them predict further tokens (``rules.Further``): a key of no config.json
VOCAB = Dim("vocab_size")
CONTEXT = Dim("max_position_embeddings")
EMBD = Dim("hidden_size")
FF = Dim("intermediate_size")
HEADS = Dim("num_attention_heads")
KV_HEADS = Dim("num_key_value_heads")
HEAD_DIM = Dim("head_dim")
Q = HEADS * HEAD_DIM
KV = KV_HEADS * HEAD_DIM
EXPERTS = Dim("num_local_experts")
EXPERT_FF = Dim("moe_intermediate_size")

WRAPPER = "config around it"  # a text model's key, which no config.json has, of a class that is written back itself
MLP_TYPES = "mlp_layer_types"  # dense or sparse, for each layer

CLASS_HEAD = "head of the class"  # ``HFClass.head``, as a key that no config.json has
CLASSIFIES = Is(CLASS_HEAD, "classifier")
LABELS = Dim("num_labels")
# What the sizes and tensors of a sentence-transformer's dense modules begin with, in the order of the modules.
DENSE = ("dense_2", "dense_3")
DENSE_SIZES = tuple(f"{name}.{end}_features" for name in DENSE for end in ("in", "out"))

_LAYER, _WHOLE = "layer", "whole config"


def at_layer(config: Config, layer: int | None, n_layers: int) -> Config:
    """The config as seen from a layer.

    A list with an entry for each layer reads as the layer's entry, ``per_layer_config`` overrides its keys, and the key
    ``layer`` is the layer's number. With a layer of None the config is returned as it is.
    """
    if layer is None:
        return config
    return _AtLayer(config, layer, n_layers)


class _AtLayer(Mapping[str, Any]):
    def __init__(self, config: Config, layer: int, n_layers: int) -> None:
        self.config, self.layer, self.n_layers = config, layer, n_layers

    @cached_property
    def _own(self) -> dict[str, Any]:
        exceptions = (self.config.get("per_layer_config") or {}).get(str(self.layer), {})
        return {**exceptions, _LAYER: self.layer, _WHOLE: self.config}

    def __getitem__(self, key: str) -> Any:
        if key in self._own:
            return self._own[key]
        value = self.config[key]
        return value[self.layer] if isinstance(value, list) and len(value) == self.n_layers else value

    def __iter__(self) -> Any:
        return iter((*self.config, *self._own))

    def __len__(self) -> int:
        return len(self.config) + len(self._own)
