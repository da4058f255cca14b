"""Rows that read the config around a text model's: what it says of the text model and its towers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ...json_types import OBJECT, WHOLES, check
from .dimensions import LAYERS, WRAPPER, Config
from .reads import OfParts
from .rows import Getter


@dataclass(frozen=True)
class Deepstack(OfParts):
    """How many layers of the vision tower are added to the first of the text model, from the config around it.

    A file does not have their numbers, only how many they are.

    Args:
        default: their numbers if the config does not say.
    """

    default: tuple[int, ...]
    gguf: str = "n_deepstack_layers"

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        place = "vision_config.deepstack_visual_indexes"
        vision = (config.get(WRAPPER) or {}).get("vision_config") or {}
        check(vision, OBJECT, where="vision_config")
        layers = vision.get("deepstack_visual_indexes", [*self.default])
        check(layers, WHOLES, where=place)
        if len(layers) > LAYERS(config):
            raise FormatError(f"{len(layers)} layers are more than the text model has", where=place)
        yield self.gguf, len(layers)

    def to_hf(self, get: Getter) -> dict[str, Any]:
        number = get(self.gguf)
        if number is None or number == len(self.default):
            return {}
        return {WRAPPER: {"vision_config": {"deepstack_visual_indexes": [*range(number)]}}}
