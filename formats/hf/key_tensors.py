"""Tensors of few numbers, of which GGUF keeps those of all blocks in an array of the metadata (``Rule.key``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import numpy as np

from ..arrays import tensor_from_array
from ..floats import to_f32
from ..gguf.keys import typed
from ..ir import Metadata, Tensor, Value
from ..qtypes import BY_NAME
from .tables.rules import Slot


def as_keys(found: Iterable[tuple[Slot, Tensor]], *, readable: bool) -> dict[str, Value]:
    """The metadata that holds tensors.

    Args:
        found: the tensors and their slots, in the blocks' order.
        readable: False if the tensors have only shapes: then zeros stand for their numbers.
    """
    numbers: dict[str, list[float]] = {}
    for slot, tensor in found:
        values = (
            _numbers(tensor, whole=slot.rule.whole) if readable else [0 if slot.rule.whole else 0.0] * tensor.n_weights
        )
        numbers.setdefault(slot.rule.key, []).extend(values)
    return {key: typed(key, values) for key, values in numbers.items()}


def _numbers(tensor: Tensor, *, whole: bool) -> list[float]:
    rows = np.ascontiguousarray(tensor.rows(0, tensor.n_rows))
    values = rows.view("<i8") if whole else to_f32(rows, tensor.qtype)
    return [one.item() for one in values.reshape(-1)]


def from_keys(slot: Slot, metadata: Metadata) -> Tensor | None:
    """The checkpoint's tensor of a slot; None if the metadata has no numbers for its block.

    An array of as many numbers as one tensor has is that of the only block that has the tensor.
    """
    value = metadata.get(slot.rule.key)
    items = value.items if value is not None and value.item is not None else ()
    if not isinstance(items, np.ndarray) or items.dtype.kind not in ("iu" if slot.rule.whole else "f"):
        return None
    count = prod(slot.shape)
    start = 0 if len(items) == count else (slot.layer or 0) * count
    numbers = items[start : start + count]
    if len(numbers) < count or (slot.rule.whole and (numbers > np.iinfo(np.int64).max).any()):
        return None
    (name,) = slot.sources
    if slot.rule.whole:
        rows = numbers.astype("<i8").view(np.uint8).reshape(*slot.shape[:-1], -1)
        made = tensor_from_array(name, rows, BY_NAME["I64"])
    else:
        made = tensor_from_array(name, numbers.astype(np.float32).reshape(slot.shape))
    return replace(made, source=slot.rule.key)
