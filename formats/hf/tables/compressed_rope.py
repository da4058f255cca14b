"""The two ropes of DeepSeek V4: of layers that see a window, and of those that see compressed keys, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_types import OBJECT, POSITIVE, shown, take
from . import rope
from .dimensions import HEAD_DIM, Config
from .rows import Getter, Rope

KINDS = ("main", "compress")  # their names in config.json


@dataclass(frozen=True)
class CompressedRope(Rope):
    """The two ropes of DeepSeek V4: of layers that see a window, and of those that see compressed keys, too."""

    @property
    def spent(self) -> tuple[str, ...]:
        return ("rope_scaling",)

    def canonical(self, config: Config, path: Path) -> dict[str, Any]:
        return of_compressed(config, path)

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        main, compress = (config["rope_parameters"][kind] for kind in KINDS)
        scaling = rope.to_gguf({key: value for key, value in compress.items() if key != "attention_factor"})
        yield from ((key, value) for key, value in scaling if key != "rope.freq_base")
        yield "rope.freq_base", main["rope_theta"]
        yield "attention.compress_rope_freq_base", compress["rope_theta"]
        yield "rope.dimension_count", rope.dimensions(main, HEAD_DIM(config))

    def to_hf(self, get: Getter) -> dict[str, Any]:
        theta, own, turning = (
            get(key) for key in ("rope.freq_base", "attention.compress_rope_freq_base", "rope.dimension_count")
        )
        head_dim = get("attention.key_length")
        if None in (theta, own, turning, head_dim):
            return {}
        part = {"partial_rotary_factor": turning / head_dim}
        compress = {**rope.to_hf(get), "rope_theta": own, **part}
        if compress["rope_type"] == "yarn":
            compress["attention_factor"] = 1.0
        main = {"rope_type": "default", "rope_theta": theta, **part}
        found = {"rope_theta": theta, "compress_rope_theta": own, "qk_rope_head_dim": turning, **part}
        return {**found, "rope_parameters": dict(zip(KINDS, (main, compress), strict=True))}


def of_compressed(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The two ropes of DeepSeek V4, as ``canonical`` writes one: scaling, which only YaRN does, is the second one's.

    Raises:
        FormatError: the rope type is unknown, or no such model's; or a number is missing.
    """
    place = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    given = take(config, place, OBJECT, path=path) or {}
    own = [take(given, kind, OBJECT, path=path, inside=f"{place}.") for kind in KINDS]
    if any(own):
        main, compress = (
            rope.complete(one or {}, config, path, f"{place}.{kind}") for kind, one in zip(KINDS, own, strict=True)
        )
    else:
        main = rope.complete({"rope_type": "default"}, config, path, place)
        theta = take(config, "compress_rope_theta", POSITIVE, path=path)
        compress = rope.complete({**given, "rope_theta": theta}, config, path, place)
    if compress["rope_type"] == "yarn":
        compress.setdefault("attention_factor", 1.0)
    for one, kinds in ((main, ("default",)), (compress, ("default", "yarn"))):
        if one["rope_type"] not in kinds or one.get("attention_factor", 1.0) != 1:
            problem = f"{shown(one)} is not what llama.cpp's deepseek4 computes"
            raise FormatError(problem, path=path, where=place)
    return dict(zip(KINDS, (main, compress), strict=True))
