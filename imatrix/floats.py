"""Tensors of float types as arrays that torch computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import QuantmillError
from ..formats.floats import to_f32
from ..formats.ir import Tensor

_PIECE = 16 << 20  # bytes of rows converted at a time
_ROUNDED = 1 << 20  # bytes of float32 on the way to bfloat16: they stay in the cache
Reader = Callable[[Tensor], NDArray[Any]]


def read_floats(tensor: Tensor, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """Read a tensor of a float type as float32.

    Args:
        tensor: of type F32, F16 or BF16.
        start, stop: the rows to read; all by default.

    Returns:
        float32 in the tensor's shape, or [stop - start, width] where only some rows are read.

    Raises:
        QuantmillError: the tensor is not of a float type.

    Example:
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> read_floats(tensor_from_array("x", np.ones((2, 3), np.float16)), 1)
        array([[1., 1., 1.]], dtype=float32)
    """
    if not tensor.qtype.is_float:
        raise QuantmillError(f"is of type {tensor.qtype}, not a float", where=tensor.source or tensor.name)
    stop = tensor.n_rows if stop is None else stop
    out = np.empty((stop - start, tensor.width), np.float32)
    step = max(1, _PIECE // max(1, tensor.row_bytes))
    for a in range(start, stop, step):
        b = min(a + step, stop)
        out[a - start : b - start] = to_f32(tensor.rows(a, b), tensor.qtype)
    return out.reshape(tensor.shape) if (start, stop) == (0, tensor.n_rows) else out


def read_bf16(tensor: Tensor) -> NDArray[np.uint16]:
    """Read a tensor of a float type as bfloat16, rounded to nearest even, without all of it in float32 on the way.

    Args:
        tensor: of type F32, F16 or BF16.

    Returns:
        the numbers' bits, in the tensor's shape.

    Raises:
        QuantmillError: the tensor is not of a float type.

    Example:
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> read_bf16(tensor_from_array("x", np.array([[1.0, 1.00390625, -2.0]], np.float32)))
        array([[16256, 16256, 49152]], dtype=uint16)
    """
    import torch

    if tensor.qtype.name == "BF16":
        out = np.empty((tensor.n_rows, tensor.width), np.uint16)
        for a, b in _pieces(tensor):
            out[a:b] = np.ascontiguousarray(tensor.rows(a, b)).view("<u2")
        return out.reshape(tensor.shape)
    rounded = torch.empty(tensor.n_rows, tensor.width, dtype=torch.bfloat16)
    for a, b in _pieces(tensor):
        rounded[a:b] = torch.from_numpy(read_floats(tensor, a, b).reshape(b - a, -1))
    return rounded.view(torch.int16).numpy().view(np.uint16).reshape(tensor.shape)


def _pieces(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """The rows of a tensor, a few megabytes at a time."""
    step = max(1, _ROUNDED // max(1, 4 * tensor.width))
    return ((a, min(a + step, tensor.n_rows)) for a in range(0, tensor.n_rows, step))
