"""Encode weights in the blocks of tensor types: arrays, and the chunks of a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..formats.errors import ImportanceMissing, PlanError, WeightError
from ..formats.floats import to_f32
from ..formats.gguf.wire import ByteOrder, swap_blocks
from ..formats.ir import Bytes, Tensor
from ..formats.qtypes import F16, F32, QType
from ..formats.qtypes import qtype as qtype_named
from ..formats.storage.output import Output
from ..formats.storage.rows_journal import FinishedRows
from .chunks import Chunk, Task, rows_per_matrix
from .kernels import kernel_for
from .kernels.contract import F32_ARRAY, SOURCE_CODE
from .kernels.floats import first_nonfinite
from .plan import Importance, Step

if TYPE_CHECKING:
    from .refine.refiner import Refiner

_INFINITE_HALF = 0x7C00  # the bits of an infinite half; those of a NaN, without its sign, are more


class BadWeight(NamedTuple):
    """A weight that cannot be encoded: its place, what is wrong with it, and whether that is its size."""

    row: int
    column: int
    problem: str
    too_large: bool


def encode(rows: NDArray[np.generic], qtype: str | QType, importance: ArrayLike | None = None) -> Bytes:
    """Encode rows of weights in blocks of a tensor type, as ``quantize`` writes them to a file.

    Args:
        rows: float [rows, width] or [width], of any float dtype. Other dtypes than float16 are converted to float32
            first. ``width`` must be a multiple of the type's block size.
        qtype: the type or its name in any case, such as ``"Q4_K"``.
        importance: float [width], the importance of each column, finite and not negative; None for none. Types that do
            not use importance ignore it.

    Returns:
        uint8 [rows, row_bytes], or [row_bytes] for one row: the blocks, little-endian, in the layout of ggml-common.h.

    Raises:
        PlanError: the shape, the dtype or the importance does not fit.
        ImportanceMissing: the type cannot be encoded without importance, and none is given.
        WeightError: a weight is NaN or Inf, or too large for the type.
        QuantmillError: the type is unknown or has no kernel.

    Example:
        >>> import numpy as np
        >>> from quantmill.quantize.decode import decode
        >>> from quantmill.quantize.encode import encode
        >>> rows = np.linspace(-1, 1, 2 * 256, dtype=np.float32).reshape(2, 256)
        >>> blocks = encode(rows, "Q4_K")
        >>> blocks.shape, blocks.dtype
        ((2, 144), dtype('uint8'))
        >>> bool(np.abs(decode(blocks, "Q4_K") - rows).max() < 0.05)
        True
    """
    target = qtype_named(qtype) if isinstance(qtype, str) else qtype
    kernel = kernel_for(target)
    array = np.asarray(rows)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":  # bfloat16 is the ml_dtypes package's
        raise PlanError(f"rows must be floats, not {array.dtype}", hint="decode gives the floats of encoded blocks")
    if array.ndim not in (1, 2):
        raise PlanError(f"rows must have 1 or 2 dimensions, not {array.ndim}", hint="encode each matrix by itself")
    n, width = array.shape if array.ndim == 2 else (1, *array.shape)
    if width % target.block_size:
        raise PlanError(f"{width} weights in a row are not a multiple of {target}'s block of {target.block_size}")
    weights = None if importance is None else _checked(importance, width)
    if weights is None and kernel.requires_importance:
        raise ImportanceMissing(f"{target} needs importance and has none", tensors=(), hint="give importance=[width]")
    source = F16 if array.dtype == np.float16 else F32
    raw = np.ascontiguousarray(array.reshape(n, width), "<f2" if source is F16 else "<f4").view(np.uint8)
    out = np.empty((n, target.row_bytes(width)), np.uint8)
    if out.size and (bad := encode_checked(raw, source, target, weights, out)) is not None:
        raise WeightError(f"weight [{bad.row}, {bad.column}] {bad.problem}")
    return out.reshape(*array.shape[:-1], out.shape[1])


def _checked(importance: ArrayLike, width: int) -> F32_ARRAY:
    vector = np.array(importance, np.float32)  # a copy: kernels are compiled for arrays that they may write to
    if vector.shape != (width,):
        raise PlanError(f"importance must have the shape [{width}], not {list(vector.shape)}")
    if not (np.isfinite(vector) & (vector >= 0)).all():
        raise PlanError("importance must be finite and not negative")
    return vector


def encode_checked(
    rows: Bytes, source: QType, target: QType, importance: F32_ARRAY | None, out: Bytes
) -> BadWeight | None:
    """Encode rows of a float type into ``out`` and return the first weight that cannot be encoded, if there is one.

    Args:
        rows: uint8 [n, bytes of a row in ``source``].
        source: F32, F16 or BF16.
        target: the type to encode in.
        importance: float32 [width], or None.
        out: uint8 [n, ``target.row_bytes(width)``], C-contiguous; without meaning where a weight is returned.
    """
    kernel = kernel_for(target)
    if not kernel.shows_nonfinite and (bad := find_nonfinite(rows, source)) is not None:
        return bad
    kernel.encode(rows, source, importance, out)
    if kernel.shows_nonfinite or source is not F16:  # no finite half is too large for a scale that is a half
        return find_overflow(rows, source, target, out)
    return None


def find_nonfinite(rows: Bytes, source: QType) -> BadWeight | None:
    """Return the first NaN or Inf in rows of a float type, uint8 [n, row bytes]."""
    index = first_nonfinite(rows, SOURCE_CODE[source.name])
    if index < 0:
        return None
    row, column = divmod(index, rows.shape[1] // source.block_bytes)
    return BadWeight(row, column, f"is {to_f32(rows[row], source)[column]}", False)


def find_overflow(rows: Bytes, source: QType, target: QType, out: Bytes) -> BadWeight | None:
    """Return the first weight (of its block, the first) for which a half in the output overflowed; or, where the
    weights had a NaN or Inf to begin with, that one.

    Args:
        rows, source: the weights, as for ``encode_checked``.
        target: the type of ``out``.
        out: uint8 [n, row bytes], the encoded rows.
    """
    blocks = out.reshape(-1).view(target.block).reshape(len(out), -1)
    for name, dtype, _ in target.fields:
        if dtype != "<f2":
            continue
        magnitudes = blocks[name].view("<u2") & 0x7FFF
        if magnitudes.max(initial=0) >= _INFINITE_HALF:
            row, block = (int(i) for i in np.argwhere(magnitudes >= _INFINITE_HALF)[0][:2])
            overflow = BadWeight(row, block * target.block_size, f"is too large for {target}", True)
            return find_nonfinite(rows, source) or overflow
    return None


class File(Protocol):
    """An output that is being written, and which of its rows are finished."""

    finished: FinishedRows

    @property
    def output(self) -> Output: ...

    def done(self, item: int, first: int, end: int) -> None:
        """Record that rows ``first`` to ``end`` of an item have been written."""


class Scratch:
    """The buffers of one thread, which are kept from chunk to chunk, and its turn to compute.

    Args:
        turn: to be held while the thread computes, not while it reads or writes.
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
class ChunkEncoder:
    """Reads, encodes, checks and writes the chunks of plans; may be called from several threads.

    Args:
        tasks: the tasks that chunks are numbered by.
        files: one for each job.
        byteorders: the byte order of each file.
        importance: the vectors that the plans were made with.
        path: the path of the source, for messages.
        refiner: refines the steps that are planned to be refined.
    """

    tasks: Sequence[Task]
    files: Sequence[File]
    byteorders: Sequence[ByteOrder]
    importance: Importance
    path: Path
    refiner: Refiner | None = None

    def do(self, chunk: Chunk, scratch: Scratch) -> None:
        """Do everything that is not finished of a chunk.

        Raises:
            WeightError: a weight is NaN or Inf, or too large for its type.
        """
        task, span = self.tasks[chunk.task], (chunk.a, chunk.b)
        steps = [s for s in task.steps if (s.item, *span) not in self.files[s.job].finished]
        if not steps:
            return
        rows = np.ascontiguousarray(task.tensor.rows(*span))
        for job_step in steps:
            file, step = self.files[job_step.job], job_step.step
            with scratch.turn:
                data = self._encode(chunk, step, rows, scratch)
                if self.byteorders[job_step.job] == "big":
                    data = swap_blocks(step.type, data)
            offset = step.offset + chunk.a * step.type.row_bytes(step.tensor.width)
            file.output.write_at(offset, data)
            file.done(job_step.item, *span)

    def _encode(self, chunk: Chunk, step: Step, rows: Bytes, scratch: Scratch) -> Bytes:
        """Return rows of the source as uint8 [n, row_bytes] of the step's type."""
        tensor, source_type = step.tensor, step.tensor.qtype
        if step.type is source_type:
            if source_type.is_float:
                self._refuse(chunk, find_nonfinite(rows, source_type))
            return rows
        if not source_type.is_float:
            decoded = scratch.array("decoded", (len(rows), tensor.width), np.float32)
            kernel_for(source_type).decode(rows, decoded)
            rows, source_type = decoded.view(np.uint8), F32
        out = scratch.array("encoded", (len(rows), step.type.row_bytes(tensor.width)))
        if step.refined:
            assert self.refiner is not None
            self._refuse(chunk, find_nonfinite(rows, source_type))
            matrix = chunk.a // rows_per_matrix(step)
            self.refiner.encode(tensor.name, matrix, to_f32(rows, source_type), step.type, out)
            self._refuse(chunk, find_overflow(rows, source_type, step.type, out))
        else:
            self._refuse(chunk, encode_checked(rows, source_type, step.type, self._vector(step, chunk.a), out))
        return out

    def _vector(self, step: Step, row: int) -> NDArray[np.float32] | None:
        """Return the importance of the matrix that a row is in: each matrix of a stack has its own."""
        if not step.uses_importance:
            return None
        vector, width = self.importance[step.tensor.name], step.tensor.width
        matrix = row // rows_per_matrix(step)
        # a copy, for a kernel is compiled for arrays that may be written to, and shared memory may not
        return np.array(vector[matrix * width : (matrix + 1) * width], np.float32)

    def _refuse(self, chunk: Chunk, bad: BadWeight | None) -> None:
        """Raise ``WeightError`` for a weight of the chunk, if there is one."""
        if bad is not None:
            raise bad_weight(self.tasks[chunk.task].tensor, chunk.a + bad.row, bad, self.path)


def bad_weight(tensor: Tensor, row: int, bad: BadWeight, path: Path | None = None) -> WeightError:
    """The error of a weight that cannot be encoded.

    Args:
        tensor: that has it.
        row: its row in the tensor.
        bad: the weight.
        path: the file, for a tensor that does not know its own.
    """
    outer = np.unravel_index(row, tensor.shape[:-1]) if len(tensor.shape) > 1 else ()
    index = ", ".join(str(i) for i in (*outer, bad.column))
    hint = "choose bf16, f32 or another level" if bad.too_large else "the checkpoint is damaged: get it again"
    where = tensor.source or tensor.name  # a tensor's source names its file
    return WeightError(f"weight [{index}] {bad.problem}", path=None if tensor.source else path, where=where, hint=hint)
