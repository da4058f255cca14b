"""Tensors made of others without reading them: parts joined, a part taken, halves exchanged, rows of another width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod

import numpy as np

from ..errors import FormatError
from ..ir import Bytes, Role, Tensor


def joined(name: str, parts: Sequence[Tensor]) -> Tensor:
    """Parts one after the other along the first axis: the rows of matrices, the numbers of vectors.

    Raises:
        FormatError: the parts differ in their type, or in another axis than the first.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.diffusion.views import joined
        >>> q, k = (tensor_from_array(name, np.ones((2, 32), np.float32)) for name in "qk")
        >>> joined("qk", [q, k]).shape
        (4, 32)
    """
    first = parts[0]
    for part in parts[1:]:
        if part.qtype is not first.qtype or part.shape[1:] != first.shape[1:]:
            problem = f"is {part.qtype} {list(part.shape)}, and {first.name} is {first.qtype} {list(first.shape)}"
            raise FormatError(f"{problem}: they cannot be one tensor", where=part.source or part.name)
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    if len(shape) == 1:
        return _made(name, parts[0], shape, lambda a, b: np.concatenate([p.rows(0, 1) for p in parts], axis=1)[a:b])
    starts = [0, *accumulate(part.n_rows for part in parts)]

    def read(a: int, b: int) -> Bytes:
        found = [
            part.rows(max(a, start) - start, min(b, start + part.n_rows) - start)
            for start, part in zip(starts, parts, strict=False)
            if a < start + part.n_rows and start < b
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    return _made(name, first, shape, read)


def part_of(name: str, tensor: Tensor, start: int, end: int) -> Tensor:
    """What lies from ``start`` to ``end`` along the first axis."""
    shape = (end - start, *tensor.shape[1:])
    if len(shape) == 1:
        size = tensor.qtype.block_bytes
        return _made(name, tensor, shape, lambda a, b: tensor.rows(0, 1)[a:b, start * size : end * size])
    each = prod(tensor.shape[1:-1])
    return _made(name, tensor, shape, lambda a, b: tensor.rows(start * each + a, start * each + b))


def swapped(tensor: Tensor) -> Tensor:
    """The second half of the first axis before the first half.

    Raises:
        FormatError: the axis has no halves.
    """
    n = tensor.shape[0] if tensor.shape else 0
    if n % 2 or not n:
        raise FormatError(f"its {n} rows have no halves", where=tensor.source or tensor.name)
    halves = [part_of(tensor.name, tensor, n // 2, n), part_of(tensor.name, tensor, 0, n // 2)]
    return replace(joined(tensor.name, halves), source=tensor.source)


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in the same order under another shape; of types whose block is one number.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.diffusion.views import reshaped
        >>> tensor = reshaped(tensor_from_array("conv", np.arange(12, dtype=np.float32).reshape(2, 2, 3)), (3, 4))
        >>> tensor.rows(1, 2).view("<f4").tolist()
        [[4.0, 5.0, 6.0, 7.0]]
    """
    assert prod(shape) == tensor.n_weights, (tensor, shape)
    assert tensor.qtype.block_size == 1, tensor
    old, new = tensor.row_bytes, (shape[-1] if shape else 1) * tensor.qtype.block_bytes

    def read(a: int, b: int) -> Bytes:
        start, end = a * new, b * new
        first = start // old
        rows = np.ascontiguousarray(tensor.rows(first, -(-end // old))).reshape(-1)
        return rows[start - first * old : end - first * old].reshape(b - a, new)

    return replace(tensor, shape=shape, read=read)


def _made(name: str, like: Tensor, shape: tuple[int, ...], read: Callable[[int, int], Bytes]) -> Tensor:
    return Tensor(name, Role.OTHER, None, shape, like.qtype, read, like.source)
