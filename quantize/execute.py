"""Carrying out plans: chunks of rows from all tensors in one queue, encoded on a few threads, each written in place.

Kernels, reads and writes release the GIL, and every chunk's place in the file is known, so threads share nothing but
the queue. Chunks are small, so memory does not grow with the model. Rows are encoded one by one, whatever chunk
they come in: the bytes depend on neither the threads nor the chunk size.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import WeightError
from ..formats.gguf.wire import swap_blocks
from ..formats.ir import Bytes, Tensor
from ..formats.qtypes import BF16, F16, F32, QType
from ..formats.resumable import Resumable, resumable_output
from .fingerprint import fingerprint
from .kernels import keep, kernel_for
from .kernels.contract import SOURCE_CODE
from .kernels.floats import first_nonfinite
from .plan import Importance, Plan, Step

SEARCHED_WEIGHTS = 1 << 19  # a chunk of a type that is searched: small, so that the threads end together
PLAIN_WEIGHTS = 1 << 20  # of one that is not, done in milliseconds: Python between the chunks is what costs
COPY_BYTES = 4 << 20  # copies are bound by the disk: fewer, larger writes


@dataclass(frozen=True)
class Job:
    """A plan and the file it becomes."""

    plan: Plan
    path: Path


@dataclass(frozen=True)
class _Part:
    """A tensor's step in one of the jobs; ``item`` is its number in the job's plan."""

    job: int
    item: int
    step: Step


@dataclass(frozen=True)
class _Chunk:
    """Rows ``a`` to ``b`` of a tensor and what is to be made of them; ``number`` is its place in the queue."""

    number: int
    tensor: Tensor
    a: int
    b: int
    parts: tuple[_Part, ...]


def execute(plan: Plan, path: str | Path, **options: Any) -> None:
    """Write one planned file. Options and errors are those of ``execute_all``."""
    execute_all([Job(plan, Path(path))], **options)


def execute_all(
    jobs: Sequence[Job],
    *,
    threads: int | None = None,
    importance: Importance | None = None,
    progress: Callable[[int], object] | None = None,
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    chunk_weights: int | None = None,
    restart: bool = False,
    say: Callable[[str], object] | None = None,
) -> None:
    """Write planned files; each appears when all are whole, or not at all. Every row of a source is read once, for all
    of them. What an interruption leaves unfinished is kept beside them, and the next run of the same plan goes on.

    Args:
        jobs: from ``make_plan``; plans of one model share its reading.
        threads: None for one a CPU this process may use.
        importance: the vectors the plans were made with.
        progress: called, by one thread at a time, with the bytes of the source just done.
        force: existing files may be replaced.
        inputs: files being read besides the model, which no output must be.
        chunk_weights: weights encoded at a time, at least a row; None for what suits the type.
        restart: discard what an earlier run left.
        say: told in one line when work is taken up or kept.

    Raises:
        WeightError: a weight is NaN or Inf (the first of the queue, whatever the threads), or too large for its type.
        OutputError: see ``resumable_output``.
    """
    vectors = importance or {}
    encoded = {step.type for job in jobs for step in job.plan.steps if step.type is not step.tensor.qtype}
    sizes = {type: chunk_weights or _chunk_weights(type) for type in encoded}
    with ExitStack() as stack:
        works = []
        for plan, path in ((job.plan, job.path) for job in jobs):
            work = resumable_output(
                path, plan.size, fingerprint(plan, vectors), force=force, inputs=[*plan.source.paths, *inputs],
                restart=restart, say=say,
            )  # fmt: skip
            works.append(stack.enter_context(work))
            for offset, piece in plan.layout.pieces:
                works[-1].output.write_at(offset, piece)
        _run(_Worker(jobs, works, vectors, progress), _chunks(jobs, sizes), threads or cpu_count())
    keep(encoded)


def cpu_count() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunk_weights(type: QType) -> int:
    return SEARCHED_WEIGHTS if kernel_for(type).uses_importance else PLAIN_WEIGHTS


def _chunks(jobs: Sequence[Job], sizes: Mapping[QType, int]) -> Iterator[_Chunk]:
    """Every row of every tensor, in order. A chunk never crosses from one stacked matrix to the next."""
    number = 0
    for parts in _by_tensor(jobs):
        tensor = parts[0].step.tensor
        rows = min(_chunk_rows(part.step, sizes) for part in parts)
        each = min(_rows_per_matrix(part.step) for part in parts)
        for start in range(0, tensor.n_rows, each):
            for a in range(start, start + each, rows):
                yield _Chunk(number, tensor, a, min(a + rows, start + each), parts)
                number += 1


def _by_tensor(jobs: Sequence[Job]) -> Iterable[tuple[_Part, ...]]:
    """Steps of the same tensor together, in the order of the first job that has it."""
    found: dict[tuple[str, str], list[_Part]] = {}
    for job, plan in enumerate(job.plan for job in jobs):
        for item, step in enumerate(plan.steps):
            found.setdefault((step.tensor.source, step.tensor.name), []).append(_Part(job, item, step))
    return [tuple(parts) for parts in found.values()]


def _chunk_rows(step: Step, sizes: Mapping[QType, int]) -> int:
    copied = step.type is step.tensor.qtype
    weights = int(COPY_BYTES * 8 / step.tensor.qtype.bpw) if copied else sizes[step.type]
    return max(1, weights // max(1, step.tensor.width))


def _rows_per_matrix(step: Step) -> int:
    shape = step.tensor.shape
    if len(shape) < 3 or not step.uses_importance:
        return max(1, step.tensor.n_rows)
    return max(1, shape[-2])


def _run(worker: _Worker, chunks: Iterator[_Chunk], threads: int) -> None:
    """The queue, its threads, and what ends them: the last chunk, an error, or Ctrl-C.

    Chunks are handed out in order and those begun are finished, so the error that is raised, the first in the queue,
    is the same with any number of threads.
    """
    lock = threading.Lock()
    errors: dict[int, BaseException] = {}
    stopped = threading.Event()

    def work() -> None:
        scratch = _Scratch()
        while not stopped.is_set():
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            try:
                worker.do(chunk, scratch)
            except BaseException as error:
                errors[chunk.number] = error
                stopped.set()

    pool = [threading.Thread(target=work, name=f"quantize-{i}") for i in range(threads)]
    try:
        for thread in pool:
            thread.start()
        for thread in pool:
            while thread.is_alive():
                thread.join(0.1)  # in slices, so that Ctrl-C is heard on every platform
    finally:
        stopped.set()
        for thread in pool:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[min(errors)]


class _Scratch:
    """One thread's buffers, kept from chunk to chunk."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
        n = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < n:
            buffer = self._buffers[name] = np.empty(n, np.uint8)
        array: NDArray[Any] = buffer[:n].view(dtype).reshape(shape)
        return array


class _Worker:
    """What happens to a chunk. Called from several threads; its only state is under a lock."""

    def __init__(
        self,
        jobs: Sequence[Job],
        works: Sequence[Resumable],
        importance: Importance,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._jobs = jobs
        self._works = works
        self._importance = importance
        self._progress = progress
        self._lock = threading.Lock()

    def do(self, chunk: _Chunk, scratch: _Scratch) -> None:
        span = (chunk.a, chunk.b)
        parts = [part for part in chunk.parts if (part.item, *span) not in self._works[part.job].finished]
        if parts:
            rows = np.ascontiguousarray(chunk.tensor.rows(*span))
            for part in parts:
                self._write(chunk, part, self._encode(chunk, part.step, rows, scratch))
                self._works[part.job].done(part.item, *span)
        if self._progress is not None:
            with self._lock:
                self._progress((chunk.b - chunk.a) * chunk.tensor.row_bytes)

    def _write(self, chunk: _Chunk, part: _Part, data: Bytes) -> None:
        step, byteorder = part.step, self._jobs[part.job].plan.layout.byteorder
        if byteorder == "big":
            data = swap_blocks(step.type, data)
        offset = step.offset + chunk.a * step.type.row_bytes(step.tensor.width)
        self._works[part.job].output.write_at(offset, data)

    def _encode(self, chunk: _Chunk, step: Step, rows: Bytes, scratch: _Scratch) -> Bytes:
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
        kernel.encode(rows, source_type, self._vector(step, chunk.a), out)
        if kernel.shows_nonfinite or source_type is not F16:  # no finite half is too large for a scale that is a half
            self._check_scales(chunk, step.type, rows, source_type, out)
        return out

    def _vector(self, step: Step, row: int) -> NDArray[np.float32] | None:
        """The importance of the matrix that a row lies in: each stacked one has its own."""
        if not step.uses_importance:
            return None
        vector, width = self._importance[step.tensor.name], step.tensor.width
        matrix = row // _rows_per_matrix(step)
        return np.ascontiguousarray(vector[matrix * width : (matrix + 1) * width], np.float32)

    def _check(self, chunk: _Chunk, rows: Bytes, type: QType) -> None:
        """Raise ``WeightError`` for the first NaN or Inf."""
        index = first_nonfinite(rows, SOURCE_CODE[type.name])
        if index >= 0:
            row, column = divmod(index, chunk.tensor.width)
            value = _as_float32(rows[row], type)[column]
            raise self._error(chunk, row, column, f"is {value}", "the checkpoint is damaged: get it again")

    def _check_scales(self, chunk: _Chunk, type: QType, rows: Bytes, source_type: QType, out: Bytes) -> None:
        """Raise ``WeightError`` where a half in the output overflowed: the weight, or the scale of its block; or where
        the weights had a NaN or Inf to begin with."""
        blocks = out.reshape(-1).view(type.block).reshape(len(out), -1)
        for name, dtype, _ in type.fields:
            if dtype != "<f2":
                continue
            finite = np.isfinite(blocks[name])
            if not finite.all():
                self._check(chunk, rows, source_type)
                row, block = (int(i) for i in np.argwhere(~finite)[0][:2])
                column = block * type.block_size
                hint = "choose bf16, f32 or another level"
                raise self._error(chunk, row, column, f"is too large for {type}", hint)

    def _error(self, chunk: _Chunk, row: int, column: int, problem: str, hint: str) -> WeightError:
        tensor = chunk.tensor
        outer = np.unravel_index(chunk.a + row, tensor.shape[:-1]) if len(tensor.shape) > 1 else ()
        index = ", ".join(str(i) for i in (*outer, column))
        path = None if tensor.source else self._jobs[0].plan.source.path  # a tensor's source names its file
        return WeightError(f"weight [{index}] {problem}", path=path, where=tensor.source or tensor.name, hint=hint)


def _as_float32(row: Bytes, type: QType) -> NDArray[np.float32]:
    if type is BF16:
        return (row.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return row.view("<f4" if type is F32 else "<f2").astype(np.float32)
