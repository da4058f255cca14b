"""Rows that the config tables of towers have beside those of text models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ...json_types import NUMBER, NUMBERS, POSITIVE, POSITIVE_WHOLE, TEXT, WHOLE, WHOLES, either, optional, shown
from .dimensions import LAYERS, Config, Dim
from .reads import Reads
from .rows import Getter


@dataclass(frozen=True)
class Values:
    """A config key that is a list of numbers, such as the mean of each colour.

    Args:
        hf: the config key.
        gguf: the hyper-parameter's key.
        count: how many.
    """

    hf: str
    gguf: str
    count: int = 3

    def reads(self) -> Reads:
        return {self.hf: NUMBERS}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        values = config[self.hf]
        if len(values) != self.count:
            raise FormatError(f"has {len(values)} numbers, not {self.count}: {shown(values)}", where=self.hf)
        yield self.gguf, values

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf, each=True)
        return {} if value is None else {self.hf: value}


@dataclass(frozen=True)
class LayersListed:
    """A config key that lists the numbers of layers, written as a bool for each layer."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLES)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        listed, layers = config.get(self.hf) or [], LAYERS(config)
        if any(layer >= layers for layer in listed):
            raise FormatError(f"lists a layer beyond the {layers} that there are: {shown(listed)}", where=self.hf)
        yield self.gguf, [layer in listed for layer in range(layers)]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        flags = get(self.gguf, each=True)
        listed = [layer for layer, flag in enumerate(flags) if flag] if isinstance(flags, list) else []
        return {self.hf: listed} if listed else {}


@dataclass(frozen=True)
class EvenlySpaced:
    """A config key that lists every n-th layer, from the n-th on, written as n."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: WHOLES}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        listed, layers = config.get(self.hf) or [], LAYERS(config)
        n = listed[0] + 1 if listed else 0
        if not n or listed != list(range(n - 1, layers, n)):
            raise FormatError(f"is not every n-th of {layers} layers: {shown(listed)}", where=self.hf)
        yield self.gguf, n

    def to_hf(self, get: Getter) -> dict[str, Any]:
        n, layers = get(self.gguf), get("vision.block_count")
        return {self.hf: list(range(n - 1, layers, n))} if n and layers else {}


@dataclass(frozen=True)
class Square:
    """A config key that is a size, or a list of the same size for height and width.

    Args:
        hf: the config key.
        gguf: the hyper-parameter's key.
        listed: it is read back as a list.
    """

    hf: str
    gguf: str
    listed: bool = False

    def reads(self) -> Reads:
        return {self.hf: either(WHOLE, WHOLES)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        yield self.gguf, side(config, self.hf)

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: [value, value] if self.listed else value}


@dataclass(frozen=True)
class Side:
    """The number behind a key of ``Square``, for shapes."""

    key: str

    def reads(self) -> Reads:
        return {self.key: either(WHOLE, WHOLES)}

    def __call__(self, config: Config) -> int:
        return side(config, self.key)


def side(config: Config, key: str) -> int:
    """The one size of a square.

    Raises:
        FormatError: it is none, or height and width differ.
    """
    value: Any = config.get(key)
    sizes = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if sizes[0] != sizes[1] or not POSITIVE_WHOLE.holds(sizes[0]):
        raise FormatError(f"{shown(value)} is not the size of a square", where=key)
    return int(sizes[0])


@dataclass(frozen=True)
class Inverted:
    """A config key that is one part of several, written as how many: 0.5 as 2."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: NUMBER}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        yield self.gguf, OneOver(self.hf)(config)

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {self.hf: 1 / value} if value else {}


@dataclass(frozen=True)
class OneOver:
    """The number behind a key of ``Inverted``, for shapes."""

    key: str

    def reads(self) -> Reads:
        return {self.key: NUMBER}

    def __call__(self, config: Config) -> int:
        share: Any = config.get(self.key)
        if not POSITIVE.holds(share) or 1 % share:
            raise FormatError(f"{shown(share)} is not one part of several", where=self.key)
        return int(1 / share)


@dataclass(frozen=True)
class Same:
    """The number that another key holds, or None: for a key that has two places."""

    key: str

    def reads(self) -> Reads:
        return {self.key: WHOLE}

    def __call__(self, config: Config) -> int | None:
        return None if config.get(self.key) is None else Dim(self.key)(config)


@dataclass(frozen=True)
class Activation:
    """A config key that names the activation: GGUF has a flag for each that llama.cpp computes.

    Args:
        hf: the config key.
        flags: the names, and the flag of each.
    """

    hf: str
    flags: Mapping[str, str]

    def reads(self) -> Reads:
        return {self.hf: TEXT}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        word = config.get(self.hf)
        if not isinstance(word, str) or word not in self.flags:
            raise FormatError(f"is {shown(word)}; llama.cpp computes {', '.join(self.flags)}", where=self.hf)
        yield self.flags[word], True

    def to_hf(self, get: Getter) -> dict[str, Any]:
        return next(({self.hf: word} for word, flag in self.flags.items() if get(flag)), {})


@dataclass(frozen=True)
class TokensPerImage:
    """How many tokens an image becomes, written as how many patches a token has on each side.

    Args:
        hf: the config key.
        gguf: the hyper-parameter's key.
        side: patches on a side of an image.
        usual: the number that llama.cpp takes for granted, which is not written.
    """

    hf: str
    gguf: str
    side: Dim
    usual: int

    def reads(self) -> Reads:
        return {self.hf: WHOLE}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        patches = (self.side // Dim(self.hf).root)(config)
        if patches != self.usual:
            yield self.gguf, patches

    def to_hf(self, get: Getter) -> dict[str, Any]:
        size, patch, patches = (get(key) for key in ("vision.image_size", "vision.patch_size", self.gguf))
        return {self.hf: (size // patch // (patches or self.usual)) ** 2} if size and patch else {}
