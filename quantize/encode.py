"""What happens to a chunk: its rows read once, encoded for each file, checked, written in their places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import WeightError
from ..formats.floats import to_f32
from ..formats.gguf.wire import ByteOrder, swap_blocks
from ..formats.ir import Bytes
from ..formats.qtypes import F16, F32, QType
from ..formats.storage.output import Output
from ..formats.storage.rows_journal import FinishedRows
from .chunks import Chunk, Task, rows_per_matrix
from .kernels import kernel_for
from .kernels.contract import SOURCE_CODE
from .kernels.floats import first_nonfinite
from .plan import Importance, Step

if TYPE_CHECKING:
    from .refine.refiner import Refiner


_INFINITE_HALF = 0x7C00  # its bits; those of a NaN, without its sign, are more


class File(Protocol):
    """An output that grows, and what of it is finished."""

    finished: FinishedRows

    @property
    def output(self) -> Output: ...

    def done(self, item: int, first: int, end: int) -> None:
        """Rows of an item have been written."""


class Scratch:
    """One thread's buffers, kept from chunk to chunk, and its turn to compute.

    Args:
        turn: held while it computes, not while it reads or writes.
    """

    def __init__(self, turn: AbstractContextManager[Any]) -> None:
        self.turn = turn
        self._buffers: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
        n = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < n:
            buffer = self._buffers[name] = np.empty(n, np.uint8)
        array: NDArray[Any] = buffer[:n].view(dtype).reshape(shape)
        return array


@dataclass(frozen=True)
class Encoder:
    """Called from several threads.

    Args:
        tasks: those that chunks speak of.
        files: one for each job.
        byteorders: theirs.
        importance: the vectors the plans were made with.
        path: the source's, for messages.
        refiner: for steps that are to be refined.
    """

    tasks: Sequence[Task]
    files: Sequence[File]
    byteorders: Sequence[ByteOrder]
    importance: Importance
    path: Path
    refiner: Refiner | None = None

    def do(self, chunk: Chunk, scratch: Scratch) -> None:
        """Everything that is not finished of a chunk.

        Raises:
            WeightError: a weight is NaN or Inf, or too large for its type.
        """
        task, span = self.tasks[chunk.task], (chunk.a, chunk.b)
        parts = [part for part in task.parts if (part.item, *span) not in self.files[part.job].finished]
        if not parts:
            return
        rows = np.ascontiguousarray(task.tensor.rows(*span))
        for part in parts:
            step = part.step
            with scratch.turn:
                data = self._encode(chunk, step, rows, scratch)
                if self.byteorders[part.job] == "big":
                    data = swap_blocks(step.type, data)
            offset = step.offset + chunk.a * step.type.row_bytes(step.tensor.width)
            self.files[part.job].output.write_at(offset, data)
            self.files[part.job].done(part.item, *span)

    def _encode(self, chunk: Chunk, step: Step, rows: Bytes, scratch: Scratch) -> Bytes:
        """Rows of the source as uint8 [n, row_bytes] of the step's type."""
        tensor, source_type = step.tensor, step.tensor.qtype
        if step.type is source_type:
            if source_type.is_float:
                self._check(chunk, rows, source_type)
            return rows
        if not source_type.is_float:
            decoded = scratch.array("decoded", (len(rows), tensor.width), np.float32)
            kernel_for(source_type).decode(rows, decoded)
            rows, source_type = decoded.view(np.uint8), F32
        kernel = kernel_for(step.type)
        if not kernel.shows_nonfinite:
            self._check(chunk, rows, source_type)
        out = scratch.array("encoded", (len(rows), step.type.row_bytes(tensor.width)))
        if step.refined:
            assert self.refiner is not None
            matrix = chunk.a // rows_per_matrix(step)
            self.refiner.encode(tensor.name, matrix, _floats(rows, source_type, tensor.width), step.type, out)
            self._check_scales(chunk, step.type, rows, source_type, out)
            return out
        kernel.encode(rows, source_type, self._vector(step, chunk.a), out)
        if kernel.shows_nonfinite or source_type is not F16:  # no finite half is too large for a scale that is a half
            self._check_scales(chunk, step.type, rows, source_type, out)
        return out

    def _vector(self, step: Step, row: int) -> NDArray[np.float32] | None:
        """The importance of the matrix that a row lies in: each stacked one has its own."""
        if not step.uses_importance:
            return None
        vector, width = self.importance[step.tensor.name], step.tensor.width
        matrix = row // rows_per_matrix(step)
        # a copy, for a kernel is compiled for arrays that may be written to, and shared memory may not
        return np.array(vector[matrix * width : (matrix + 1) * width], np.float32)

    def _check(self, chunk: Chunk, rows: Bytes, type: QType) -> None:
        """Raise ``WeightError`` for the first NaN or Inf."""
        index = first_nonfinite(rows, SOURCE_CODE[type.name])
        if index >= 0:
            row, column = divmod(index, self.tasks[chunk.task].tensor.width)
            value = to_f32(rows[row], type)[column]
            raise self._error(chunk, row, column, f"is {value}", "the checkpoint is damaged: get it again")

    def _check_scales(self, chunk: Chunk, type: QType, rows: Bytes, source_type: QType, out: Bytes) -> None:
        """Raise ``WeightError`` where a half in the output overflowed: the weight, or the scale of its block; or where
        the weights had a NaN or Inf to begin with."""
        blocks = out.reshape(-1).view(type.block).reshape(len(out), -1)
        for name, dtype, _ in type.fields:
            if dtype != "<f2":
                continue
            magnitudes = blocks[name].view("<u2") & 0x7FFF
            if magnitudes.max(initial=0) >= _INFINITE_HALF:
                self._check(chunk, rows, source_type)
                row, block = (int(i) for i in np.argwhere(magnitudes >= _INFINITE_HALF)[0][:2])
                column = block * type.block_size
                hint = "choose bf16, f32 or another level"
                raise self._error(chunk, row, column, f"is too large for {type}", hint)

    def _error(self, chunk: Chunk, row: int, column: int, problem: str, hint: str) -> WeightError:
        tensor = self.tasks[chunk.task].tensor
        outer = np.unravel_index(chunk.a + row, tensor.shape[:-1]) if len(tensor.shape) > 1 else ()
        index = ", ".join(str(i) for i in (*outer, column))
        path = None if tensor.source else self.path  # a tensor's source names its file
        return WeightError(f"weight [{index}] {problem}", path=path, where=tensor.source or tensor.name, hint=hint)


def _floats(rows: Bytes, type: QType, width: int) -> NDArray[np.float32]:
    out = np.empty((len(rows), width), np.float32)
    kernel_for(type).decode(rows, out)
    return out
