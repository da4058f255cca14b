"""The stored matrices of a packed checkpoint, read a few rows or a few columns at a time.

GPTQ and AWQ lay a weight's input axis first, so that a row of the weight is a column of the file. Columns are read in
panels, transposed and kept for the neighbours that are asked for next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...floats import bf16_to_f32
from ..files.safetensors import DTYPE_BITS, StoredTensor
from ..files.weights import Stored

PANEL_BYTES = 4 << 20  # of a panel: long enough pieces of a row to read fast, and few enough panels to cache
CACHE_BYTES = 48 << 20  # of all cached panels: a few for each of the tensors that several threads work on

# How a dtype's bytes are seen; those without a numpy type of their own as integers of their size.
_NUMPY = {
    "I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
}  # fmt: skip


class Panels:
    """A cache of the panels that were read last, up to ``CACHE_BYTES``. Thread-safe."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._limit = limit
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, matrix: Matrix, number: int) -> NDArray[Any]:
        """Get a panel, [its columns, rows of the matrix]. It is read under the lock, so that no two threads read it."""
        key = (matrix.stored.name, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            panel = matrix.load(number)
            self._kept[key] = panel
            self._bytes += panel.nbytes
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return panel


@dataclass(frozen=True)
class Matrix:
    """A stored tensor seen as a matrix [rows, width]; a vector is one row."""

    stored: StoredTensor
    panels: Panels = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        shape = self.stored.shape
        return prod(shape[:-1]), shape[-1] if shape else 1

    @property
    def where(self) -> str:
        return f"{self.stored.path}: {self.stored.name}"

    def rows(self, a: int, b: int) -> NDArray[Any]:
        """Read rows a to b in the file's dtype; 16- and 8-bit floats that numpy lacks are returned as integers."""
        return self.stored.rows(a, b).view(_NUMPY[self.stored.dtype])

    def all(self) -> NDArray[Any]:
        return self.rows(0, self.shape[0])

    def columns(self, a: int, b: int) -> NDArray[Any]:
        """Read columns a to b, transposed: [b-a, rows]."""
        step = self._panel_columns
        parts = []
        for number in range(a // step, -(-b // step)):
            panel = self.panels.get(self, number)
            parts.append(panel[max(a - number * step, 0) : b - number * step])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.shape[0]), _NUMPY[self.stored.dtype])

    @property
    def _panel_columns(self) -> int:
        rows = max(1, self.shape[0])
        return max(1, PANEL_BYTES * 8 // (rows * DTYPE_BITS[self.stored.dtype]))

    def load(self, number: int) -> NDArray[Any]:
        """Read one panel from the file."""
        rows, width = self.shape
        a = number * self._panel_columns
        b = min(a + self._panel_columns, width)
        if (a, b) == (0, width):
            return np.ascontiguousarray(self.all().T)
        panel = np.empty((rows, b - a), _NUMPY[self.stored.dtype])
        size = panel.itemsize
        for row in range(rows):
            panel[row] = self.stored.piece((row * width + a) * size, (b - a) * size).view(panel.dtype)
        return np.ascontiguousarray(panel.T)


@dataclass(frozen=True)
class Module:
    """The stored tensors of one linear layer, by the part of their names after the module's.

    Args:
        name: the module's name, such as ``model.layers.0.mlp.up_proj``.
        parts: the stored tensors by their part, such as ``qweight``.
        panels: the cache for what is read of them.
        joint: what stands between the module's name and a part's.
    """

    name: str
    parts: Mapping[str, Stored]
    panels: Panels = field(repr=False)
    joint: str = "."

    def has(self, part: str) -> bool:
        return part in self.parts

    def matrix(self, part: str, dtypes: tuple[str, ...]) -> Matrix:
        """Get a part that must exist, in one of these dtypes.

        Raises:
            FormatError: it is missing, of another dtype, or not in a safetensors file.
        """
        found = self.parts.get(part)
        if found is None:
            there = next(iter(self.parts.values()))
            path = there.path if isinstance(there, StoredTensor) else there.source
            raise FormatError("missing, though the layer is packed", path=path, where=self.name + self.joint + part)
        if not isinstance(found, StoredTensor) or (found.nbytes == 0 and 0 not in found.shape):
            hint = "convert the checkpoint to safetensors first"
            raise FormatError(
                "packed weights are read from safetensors only", where=self.name + self.joint + part, hint=hint
            )
        if found.dtype not in dtypes:
            problem = f"its dtype is {found.dtype}, not {' or '.join(dtypes)}"
            raise FormatError(problem, path=found.path, where=found.name)
        return Matrix(found, self.panels)

    def plane(self, part: str, dtypes: tuple[str, ...]) -> Matrix:
        """Get a part that must have two axes: no known tool packs a stack of experts into one tensor of integers."""
        matrix = self.matrix(part, dtypes)
        if len(matrix.stored.shape) != 2:
            problem = f"its shape is {list(matrix.stored.shape)}: stacks of experts are read packed one by one"
            raise self.error(part, problem, "convert the original checkpoint")
        return matrix

    def sized(self, part: str, dtypes: tuple[str, ...], shape: tuple[int, ...], why: str) -> Matrix:
        """Get a part that must also have this shape; ``why`` names what the shape follows from."""
        matrix = self.matrix(part, dtypes)
        if matrix.stored.shape != shape:
            raise self.error(part, f"its shape is {list(matrix.stored.shape)}, {why} makes it {list(shape)}")
        return matrix

    def error(self, part: str, problem: str, hint: str | None = None) -> FormatError:
        found = self.parts.get(part)
        path = found.path if isinstance(found, StoredTensor) else None
        return FormatError(problem, path=path, where=self.name + self.joint + part, hint=hint)


def float_rows(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Convert stored F16, BF16, F32 or F8_E8M0 values to float32."""
    if dtype == "BF16":
        return bf16_to_f32(raw)
    if dtype == "F8_E8M0":  # a power of two by its exponent; 255 is NaN
        powers = np.ldexp(np.float32(1), np.minimum(raw, 254).astype(np.int32) - 127)
        return np.where(raw == 255, np.float32("nan"), powers)
    return raw.astype(np.float32)


FLOAT_DTYPES = ("F16", "BF16", "F32")
