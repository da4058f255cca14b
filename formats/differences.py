"""Compare two models: their keys, and the names, shapes, types and bytes of their tensors. Layout does not count."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .gguf.keys import GENERAL_ALIGNMENT
from .gguf.shards import without_split
from .gguf.wire import encode_value
from .gguf.writer import ggml_shape
from .ir import Metadata, Model, Tensor, Value, ValueType

_CHUNK = 4 << 20  # bytes compared at a time


@dataclass(frozen=True)
class KeyChange:
    """A metadata key whose value differs; ``a`` or ``b`` is None in the model that lacks the key."""

    key: str
    a: Value | None
    b: Value | None


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs: it is in one model only, or its shape, type or weights are not the same."""

    name: str
    change: Literal["removed", "added", "shape", "type", "weights"]
    a: Tensor | None
    b: Tensor | None


def key_changes(a: Metadata, b: Metadata) -> list[KeyChange]:
    """List the keys whose type or value differs, in the order of ``a``, then those that only ``b`` has.

    The alignment and the keys of shards (``split.*``) do not count.

    Example:
        >>> from quantmill.formats.differences import key_changes
        >>> from quantmill.formats.gguf.keys import typed
        >>> old, new = {"general.name": typed("general.name", "a")}, {"general.name": typed("general.name", "b")}
        >>> [(change.key, change.a.data, change.b.data) for change in key_changes(old, new)]
        [('general.name', 'a', 'b')]
    """
    a, b = (without_split(side) for side in (a, b))
    keys = [key for key in dict.fromkeys([*a, *b]) if key != GENERAL_ALIGNMENT]
    return [KeyChange(key, a.get(key), b.get(key)) for key in keys if not same_value(a.get(key), b.get(key))]


def same_value(a: Value | None, b: Value | None) -> bool:
    """Whether two values have the same type and bytes in a file."""
    if a is None or b is None:
        return a is b
    return encode_value(a) == encode_value(b)


def array_difference(a: Value, b: Value) -> tuple[int, int] | None:
    """Compare two arrays of the same item type: the first index where they differ and the number of differences.

    Returns None for equal arrays, and for values that are not arrays of the same item type.
    """
    if a.type is not ValueType.ARRAY or b.type is not ValueType.ARRAY or a.item is not b.item:
        return None
    shared = min(len(a.items), len(b.items))
    differ = [i for i in range(shared) if _item(a, i) != _item(b, i)]
    longer = abs(len(a.items) - len(b.items))
    return (differ[0] if differ else shared, len(differ) + longer) if differ or longer else None


def _item(value: Value, i: int) -> object:
    item = value.items[i]
    return encode_value(item) if isinstance(item, Value) else item.tobytes() if isinstance(item, np.generic) else item


def tensor_changes(a: Model, b: Model, *, weights: bool = True, threads: int | None = None) -> Iterator[TensorChange]:
    """Find the tensors that differ, in the order of ``a``, then those that only ``b`` has.

    Leading axes of length 1 do not count as a difference of shapes.

    Args:
        weights: also compare the bytes of tensors of the same shape and type.
        threads: that read and compare; None for Python's default.

    Raises:
        FormatError: a file is damaged or was changed while it was read.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> from quantmill.formats.differences import tensor_changes
        >>> old = model_from_arrays("llama", {"output_norm.weight": np.ones(8, np.float32)})
        >>> new = model_from_arrays("llama", {"output_norm.weight": np.zeros(8, np.float32)})
        >>> [(change.name, change.change) for change in tensor_changes(old, new)]
        [('output_norm.weight', 'weights')]
    """
    others = {tensor.name: tensor for tensor in b}
    with ThreadPoolExecutor(threads) as pool:
        jobs = [(t, others.get(t.name), pool.submit(_change, t, others.get(t.name), weights)) for t in a]
        for ours, theirs, job in jobs:
            change = job.result()
            if change is not None:
                yield TensorChange(ours.name, change, ours, theirs)
    ours_too = {tensor.name for tensor in a}
    for tensor in b:
        if tensor.name not in ours_too:
            yield TensorChange(tensor.name, "added", None, tensor)


def _change(a: Tensor, b: Tensor | None, weights: bool) -> Literal["removed", "shape", "type", "weights"] | None:
    if b is None:
        return "removed"
    if ggml_shape(a.shape) != ggml_shape(b.shape):
        return "shape"
    if a.qtype is not b.qtype:
        return "type"
    return "weights" if weights and not same_bytes(a, b) else None


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of the same shape and type hold the same bytes; stops at the first chunk that differs."""
    return all(np.array_equal(a.rows(*span), b.rows(*span)) for span in a.row_chunks(_CHUNK))
