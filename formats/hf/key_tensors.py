"""Tensors of a single number, of which GGUF keeps those of all blocks in an array of the metadata (``Rule.key``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..arrays import tensor_from_array
from ..floats import to_f32
from ..gguf.keys import typed
from ..ir import Metadata, Tensor, Value, ValueType
from .rules import Slot


def as_keys(found: Iterable[tuple[Slot, Tensor]], *, readable: bool) -> dict[str, Value]:
    """The metadata that holds tensors.

    Args:
        found: the tensors and their slots, in the blocks' order.
        readable: False if the tensors have only shapes: then zeros stand for their numbers.
    """
    numbers: dict[str, list[float]] = {}
    for slot, tensor in found:
        value = float(to_f32(tensor.rows(0, 1), tensor.qtype).reshape(-1)[0]) if readable else 0.0
        numbers.setdefault(slot.rule.key, []).append(value)
    return {key: typed(key, values) for key, values in numbers.items()}


def from_keys(slot: Slot, metadata: Metadata) -> Tensor | None:
    """The checkpoint's tensor of a slot; None if the metadata has no number for its block."""
    value = metadata.get(slot.rule.key)
    if value is None or value.item is not ValueType.FLOAT32 or slot.layer is None or slot.layer >= len(value.items):
        return None
    (name,) = slot.sources
    number = np.full(slot.shape, value.items[slot.layer], np.float32)
    return replace(tensor_from_array(name, number), source=slot.rule.key)
