"""Bytes of the float types F32, F16 and BF16 as float32 arrays and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .ir import Bytes, Tensor
from .qtypes import BF16, F16, QType


def bf16_to_f32(words: NDArray[Any]) -> NDArray[np.float32]:
    """Convert BF16 numbers, given as uint16 words of any shape, to float32 of the same shape, exactly.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.floats import bf16_to_f32
        >>> bf16_to_f32(np.array([0x3F80, 0xC000], np.uint16)).tolist()
        [1.0, -2.0]
    """
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_f32(rows: Bytes, qtype: QType) -> NDArray[np.float32]:
    """Read rows of a float type, uint8 [rows, row_bytes], as float32 [rows, width].

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.floats import to_f32
        >>> from quantmill.formats.qtypes import F16
        >>> to_f32(np.array([[0, 0x3C]], np.uint8), F16)  # 0x3C00 is a half's 1
        array([[1.]], dtype=float32)
    """
    raw = np.ascontiguousarray(rows)
    if qtype is BF16:
        return bf16_to_f32(raw.view("<u2"))
    return raw.view("<f2" if qtype is F16 else "<f4").astype(np.float32)


def from_f32(values: NDArray[np.float32], qtype: QType) -> Bytes:
    """Round float32 [rows, width] to a float type, to nearest even: uint8 [rows, row_bytes].

    A finite number beyond the type's range becomes an infinity; a NaN stays one.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.floats import from_f32
        >>> from quantmill.formats.qtypes import BF16
        >>> from_f32(np.array([[1.0, -2.0]], np.float32), BF16).tolist()
        [[128, 63, 0, 192]]
    """
    if qtype is BF16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        rounded = np.where(np.isnan(values), (bits >> 16) | 64, rounded)  # stays a NaN
        return rounded.astype("<u2").view(np.uint8)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype("<f2" if qtype is F16 else "<f4")).view(np.uint8)


def f64_to_f32(rows: Bytes, *, first: int = 0, where: str | None = None) -> Bytes:
    """Round rows of float64 numbers to float32, to nearest even: uint8 [rows, width * 8] -> [rows, width * 4].

    Args:
        rows: the numbers' bytes.
        first: the number of the first row, for messages.
        where: the tensor that they are of, for messages.

    Raises:
        FormatError: a finite number is beyond float32's range.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.floats import f64_to_f32
        >>> f64_to_f32(np.array([[1.0, -2.0]]).view(np.uint8)).view(np.float32)
        array([[ 1., -2.]], dtype=float32)
    """
    values = np.ascontiguousarray(rows).view("<f8")
    with np.errstate(over="ignore"):
        rounded = values.astype("<f4")
    beyond = np.isinf(rounded) & np.isfinite(values)
    if beyond.any():
        row, column = (int(i) for i in np.argwhere(beyond)[0])
        problem = f"weight [{first + row}, {column}] is {values[row, column]:.3g}, beyond the range of F32"
        raise FormatError(problem, where=where, hint="the checkpoint is damaged, or needs F64, which no program runs")
    return rounded.view(np.uint8)


def cast(tensor: Tensor, qtype: QType) -> Tensor:
    """Convert a tensor of a float type to another, lazily: its rows are rounded as they are read."""
    if tensor.qtype is qtype:
        return tensor

    def read(a: int, b: int) -> Bytes:
        return from_f32(to_f32(tensor.rows(a, b), tensor.qtype), qtype)

    return replace(tensor, qtype=qtype, read=read)
