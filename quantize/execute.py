"""Carry out plans: read, encode and write every tensor in chunks of rows, on threads or on a pool of workers.

Kernels, reads and writes release the GIL, and every chunk's place in the file is known, so threads share nothing but
the queue. Chunks are small, so memory does not grow with the model. Rows are encoded one by one, whatever chunk they
come in, so the bytes depend on neither the threads, nor the chunk size, nor the machines.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.progress import Event, Progress, notes, work
from ..formats.storage.resumable import resumable_output
from ..formats.workers import Pool
from .chunks import Chunk, Job, chunks_of, tasks_of
from .distribute import on_pool
from .encode import ChunkEncoder
from .fingerprint import fingerprint
from .plan import Plan
from .threads import cpu_count, on_threads

if TYPE_CHECKING:
    from .refine.refiner import Refiner

__all__ = ["Job", "execute", "execute_all"]


def execute(
    plan: Plan,
    path: str | Path,
    *,
    threads: int | None = None,
    refiner: Refiner | None = None,
    progress: Progress | None = None,
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    chunk_weights: int | None = None,
    restart: bool = False,
    pool: Pool | None = None,
) -> None:
    """Write the file that a plan describes. It appears at ``path`` when it is complete, or not at all.

    Args:
        plan: from ``make_plan``.
        path: the file to write.
        threads, refiner, progress, force, inputs, chunk_weights, restart, pool: see ``execute_all``.

    Raises:
        WeightError, OutputError: see ``execute_all``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from quantmill.formats.gguf.reader import read_gguf
        >>> from quantmill.formats.ir import Model, Role, Tensor, Value, ValueType
        >>> from quantmill.formats.qtypes import F16
        >>> from quantmill.quantize.execute import execute
        >>> from quantmill.quantize.plan import make_plan
        >>> weights = np.ones((4, 256), np.float16).view(np.uint8)
        >>> tensor = Tensor("blk.0.attn_q.weight", Role.ATTN_Q, 0, (4, 256), F16, lambda a, b: weights[a:b])
        >>> metadata = {"general.architecture": Value(ValueType.STRING, "llama")}
        >>> model = Model("llama", metadata, (tensor,), Path("tiny"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     execute(make_plan(model, "Q4_K_S"), Path(folder) / "tiny.gguf")
        ...     [tensor.qtype.name for tensor in read_gguf(Path(folder) / "tiny.gguf")]
        ['Q4_K']
    """
    execute_all(
        [Job(plan, Path(path))], threads=threads, refiner=refiner, progress=progress,
        force=force, inputs=inputs, chunk_weights=chunk_weights, restart=restart, pool=pool,
    )  # fmt: skip


def execute_all(
    jobs: Sequence[Job],
    *,
    threads: int | None = None,
    refiner: Refiner | None = None,
    progress: Progress | None = None,
    force: bool = False,
    inputs: Sequence[str | Path] = (),
    chunk_weights: int | None = None,
    restart: bool = False,
    pool: Pool | None = None,
) -> None:
    """Write the files of several plans, which appear when all are complete, or not at all.

    Every row of a source is read once, for all of them. What an interruption leaves unfinished is kept beside them, and
    the next run of the same plans goes on from there.

    Args:
        jobs: plans from ``make_plan``, each with the file to write; all are of one model
            and made with the same importance, or with none.
        threads: how many may compute at a time; None for one for each CPU that this process may use.
        refiner: refines the steps that are planned to be refined.
        progress: called with ``WorkStarted``, ``RowsDone`` for each chunk of rows, ``WorkEnded``, and a ``Note`` when
            work is taken up or kept; from one thread at a time.
        force: replace existing files.
        inputs: files that are read besides the model, so that no output may replace them.
        chunk_weights: weights to encode at a time, at least a row; None for the usual number.
        restart: discard what an earlier run left.
        pool: workers that do the work, instead of threads of this process.

    Raises:
        WeightError: a weight is NaN or Inf (the first of the queue, whatever the threads), or too large for its type.
        OutputError: a file exists and ``force`` is False, or cannot be written; see ``resumable_output``.
    """
    vectors = next((job.plan.importance for job in jobs if job.plan.importance), {})
    tasks = tasks_of(jobs)
    report = _one_at_a_time(progress)
    with ExitStack() as stack:
        works = []
        for plan, path in ((job.plan, job.path) for job in jobs):
            output = resumable_output(
                path, plan.size, fingerprint(plan, refiner), force=force, inputs=[*plan.source.paths, *inputs],
                restart=restart, say=notes(report),
            )  # fmt: skip
            works.append(stack.enter_context(output))
            for offset, piece in plan.layout.pieces:
                works[-1].output.write_at(offset, piece)
        orders = [job.plan.layout.byteorder for job in jobs]
        encoder = ChunkEncoder(tasks, works, orders, vectors, jobs[0].plan.source.path, refiner)
        chunks = chunks_of(tasks, chunk_weights)

        name = jobs[0].path.name if len(jobs) == 1 else f"{len(jobs)} files"
        count = stack.enter_context(work(report, name, sum(task.tensor.nbytes for task in tasks)))

        def done(chunk: Chunk) -> None:
            if count is not None:
                count((chunk.b - chunk.a) * tasks[chunk.task].tensor.row_bytes)

        if pool is None:
            on_threads(encoder.do, chunks, threads or cpu_count(), done)
        else:
            on_pool(encoder, works, chunks, pool, done)


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    """Return a listener that calls ``progress`` from one thread at a time."""
    if progress is None:
        return None
    lock = threading.Lock()

    def report(event: Event) -> None:
        with lock:
            progress(event)

    return report
