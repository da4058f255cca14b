"""Rows of config keys that have a value for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ...json_types import FLAG, NUMBER, NUMBERS, TEXTS, WHOLE, WHOLES, list_of, optional, shown
from .dimensions import LAYERS, Config, Dim, If, at_layer
from .reads import LAYER_TYPES, OfParts, Reads, of_gguf
from .rows import Getter


@dataclass(frozen=True)
class PerLayer:
    """A config key with a value for each layer, written as an array; a single value stays single.

    Args:
        hf: the config key.
        gguf: the hyper-parameter.
        each: whether the config key has never a single value, but whole numbers.
    """

    hf: str
    gguf: str
    each: bool = False

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLES) if self.each else of_gguf(self.gguf)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (value := config.get(self.hf)) is not None:
            yield self.gguf, value

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf, each=True)
        return {} if value is None else {self.hf: value}


@dataclass(frozen=True)
class FirstOf(OfParts):
    """A config key that is the first layer's value where a hyper-parameter has one for each. It is only read back."""

    hf: str
    gguf: str

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf, each=True)
        return {} if value is None else {self.hf: value[0] if isinstance(value, list) and value else value}


@dataclass(frozen=True)
class LayerNumbers:
    """``layer_types``, a word for each layer, which is a number in GGUF.

    Args:
        numbers: the number of each word.
    """

    hf: str
    gguf: str
    numbers: Mapping[str, int]

    def reads(self) -> Reads:
        return {self.hf: TEXTS}

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a layer may have."""
        return tuple(self.numbers)

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if config.get(self.hf) is None:
            raise FormatError("missing: of which kind each layer is", where=self.hf)
        yield self.gguf, [self.numbers[word] for word in config[self.hf]]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        words = {number: word for word, number in self.numbers.items()}
        return (
            {self.hf: [words[number] for number in found]} if isinstance(found, list) and {*found} <= {*words} else {}
        )


@dataclass(frozen=True)
class InLayersOf:
    """A config key's number, which GGUF has for each layer of one kind, and 0 for all others.

    Args:
        hf: the config key.
        gguf: the hyper-parameter.
        kind: the layers' word in ``layer_types``.
    """

    hf: str
    gguf: str
    kind: str

    def reads(self) -> Reads:
        return {self.hf: WHOLE, LAYER_TYPES: TEXTS}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        number = Dim(self.hf)(config)
        yield self.gguf, [number if word == self.kind else 0 for word in config["layer_types"]]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        return {self.hf: max(found)} if isinstance(found, list) and any(found) else {}


@dataclass(frozen=True)
class Repeated:
    """A config key whose number GGUF has once for each layer."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: of_gguf(self.gguf) or NUMBER}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (value := config.get(self.hf)) is not None:
            yield self.gguf, [value] * LAYERS(config)

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: value}


@dataclass(frozen=True)
class SizeOfLayer:
    """A size that some layers have otherwise than the first, written as an array if a flag says that they may.

    Args:
        hf: the config key, which has the size of the first layer.
        gguf: the hyper-parameter.
        size: what it is in a layer.
        flag: the config key of the flag.
    """

    hf: str
    gguf: str
    size: Dim | If
    flag: str

    def reads(self) -> Reads:
        return {self.hf: WHOLE, self.flag: FLAG}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        n = LAYERS(config)
        each = [self.size(at_layer(config, layer, n)) for layer in range(n)]
        yield self.gguf, each if config.get(self.flag) else each[0]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        each = get(self.gguf, each=True)
        if not isinstance(each, list):
            return {} if each is None else {self.hf: each}
        return {self.hf: each[0], self.flag: len({*each}) > 1} if each else {}


@dataclass(frozen=True)
class LayerThetas:
    """``layer_rope_theta``, the base of each layer's rope, or 0 for none: GGUF has one base, and flags.

    It counts instead of the base in ``rope_parameters``, so it stands behind the row of that.
    """

    hf: str = "layer_rope_theta"
    gguf: str = "attention.rope_pattern"

    def reads(self) -> Reads:
        return {self.hf: optional(NUMBERS)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        bases = config.get(self.hf)
        if bases is None:
            return
        turning = {base for base in bases if base}
        if len(bases) != LAYERS(config) or len(turning) > 1:
            problem = f"is not 0 or one base for each of {LAYERS(config)} layers: {shown(bases)}"
            raise FormatError(problem, where=self.hf, hint="llama.cpp has one base for all layers")
        if turning:
            yield "rope.freq_base", turning.pop()
        if not all(bases):
            yield self.gguf, [bool(base) for base in bases]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        flags, base, layers = get(self.gguf, each=True), get("rope.freq_base"), get("block_count")
        if base is None or layers is None:
            return {}
        flags = flags if isinstance(flags, list) else [True] * layers
        return {self.hf: [base if flag else 0 for flag in flags]}


@dataclass(frozen=True)
class Limits:
    """A config key with a limit for each layer, null where there is none, which is 0 in GGUF."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: optional(list_of(optional(NUMBER), "numbers, or null"))}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (values := config.get(self.hf)) is not None:
            n = LAYERS(config)
            yield self.gguf, [float(value or 0) for value in (*values[:n], *[0] * (n - len(values)))]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        return {self.hf: [value or None for value in found]} if isinstance(found, list) else {}
