"""The float types' bytes as float32 arrays, both ways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .ir import Bytes
from .qtypes import BF16, F16, QType


def to_f32(rows: Bytes, qtype: QType) -> NDArray[np.float32]:
    """Rows of a float type as float32 [rows, width]."""
    raw = np.ascontiguousarray(rows)
    if qtype is BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f2" if qtype is F16 else "<f4").astype(np.float32)


def from_f32(values: NDArray[np.float32], qtype: QType) -> Bytes:
    """float32 [rows, width] as rows of a float type, rounded to nearest even."""
    if qtype is BF16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        rounded = np.where(np.isnan(values), (bits >> 16) | 64, rounded)  # stays a NaN
        return rounded.astype("<u2").view(np.uint8)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype("<f2" if qtype is F16 else "<f4")).view(np.uint8)
