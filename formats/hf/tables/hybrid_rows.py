"""Rows of hybrids: in llama.cpp, a layer without key/value heads is one without attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ...json_types import TEXTS, WHOLE, WHOLES, optional, shown
from .dimensions import KV_HEADS, LAYERS, Config, Dim
from .reads import LAYER_TYPES, Reads
from .rows import Getter

_STATE = ("linear_attention", "mamba")  # the second in configs of transformers 4
_HEADS = "attention.head_count_kv"
ATTENTION = ("full_attention", "attention")  # the second in configs of transformers 4


@dataclass(frozen=True)
class MixerLayers:
    """``layer_types`` of models whose layers are attention, a state or a feed-forward, and no two of them.

    In llama.cpp, attention has key/value heads, a feed-forward has a width, and a state neither.

    Args:
        forward: the word for a feed-forward.
        width: the config key with its width.
    """

    forward: str
    width: str

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS, self.width: WHOLE, **KV_HEADS.reads()}

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a layer may have."""
        return *ATTENTION, *_STATE, self.forward

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        words, heads, width = config["layer_types"], KV_HEADS(config), Dim(self.width)(config)
        yield _HEADS, [heads if word in ATTENTION else 0 for word in words]
        yield "feed_forward_length", [width if word == self.forward else 0 for word in words]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        heads, widths = get(_HEADS, each=True), get("feed_forward_length", each=True)
        if not isinstance(heads, list) or not isinstance(widths, list):
            return {}
        kinds = zip(heads, widths, strict=False)
        words = [ATTENTION[0] if head else self.forward if width else _STATE[0] for head, width in kinds]
        sizes = {"num_key_value_heads": max(heads, default=0), self.width: max(widths, default=0)}
        return {"layer_types": words, **{key: size for key, size in sizes.items() if size}}


@dataclass(frozen=True)
class ListedAttention:
    """A config key that lists the layers with attention, counted from 0."""

    hf: str
    gguf: str = _HEADS

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLES), **KV_HEADS.reads()}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        listed, n_layers = config.get(self.hf) or (), LAYERS(config)
        if not {*listed} <= {*range(n_layers)}:
            raise FormatError(f"not all of its layers are in 0 to {n_layers - 1}: {shown(listed)}", where=self.hf)
        heads = KV_HEADS(config)
        yield self.gguf, [heads if layer in listed else 0 for layer in range(n_layers)]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        heads = get(self.gguf, each=True)
        if not isinstance(heads, list):
            return {}
        listed = [layer for layer, number in enumerate(heads) if number]
        return {self.hf: listed, **_number(heads)}


@dataclass(frozen=True)
class PeriodicAttention:
    """Two config keys that say which layers have attention: one in so many, and the first of them."""

    period: str
    offset: str
    gguf: str = _HEADS

    def reads(self) -> Reads:
        return {self.period: WHOLE, self.offset: WHOLE, **KV_HEADS.reads()}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        period, offset, heads = Dim(self.period)(config), Dim(self.offset)(config), KV_HEADS(config)
        yield self.gguf, [heads if layer % period == offset else 0 for layer in range(LAYERS(config))]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        heads = get(self.gguf, each=True)
        if not isinstance(heads, list):
            return {}
        first, *others = [layer for layer, number in enumerate(heads) if number] or [len(heads)]
        period = others[0] - first if others else max(len(heads), first + 1)
        return {self.period: period, self.offset: first, **_number(heads)}


def _number(heads: list[int]) -> dict[str, Any]:
    most = max(heads, default=0)
    return {"num_key_value_heads": most} if most else {}


@dataclass(frozen=True)
class AttentionLayers:
    """``layer_types`` of hybrid models: in llama.cpp, a layer without key/value heads is one without attention.

    Args:
        other: the word for layers without attention.
        heads: the key/value heads of the others, if that is not what ``num_key_value_heads`` says.
        word: the word for the others.
    """

    other: str
    gguf: str = "attention.head_count_kv"
    heads: Dim = KV_HEADS
    word: str = "full_attention"

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS}

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a layer may have."""
        return *{*ATTENTION, self.word}, self.other

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (words := config.get("layer_types")) is None:
            raise FormatError("missing: which layers have attention", where="layer_types")
        heads = self.heads(config)
        # others have several names: mamba, linear_attention
        yield self.gguf, [heads if word in (*ATTENTION, self.word) else 0 for word in words]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        heads = get(self.gguf, each=True)
        if not isinstance(heads, list):
            return {}
        found = {"num_key_value_heads": max(heads)} if self.heads is KV_HEADS else {}
        return {**found, "layer_types": [self.word if number else self.other for number in heads]}
