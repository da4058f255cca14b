"""Rows of config keys that have a value for each layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .dimensions import Config
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

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (value := config.get(self.hf)) is not None:
            yield self.gguf, value

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf, each=True)
        return {} if value is None else {self.hf: value}


@dataclass(frozen=True)
class FirstOf:
    """A config key that is the first layer's value where a hyper-parameter has one for each. It is only read back."""

    hf: str
    gguf: str

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf, each=True)
        return {} if value is None else {self.hf: value[0] if isinstance(value, list) and value else value}
