"""Plans from an importance matrix's file, and writing the files of plans."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.progress import Progress, notes
from ...quantize.plan_options import PlanOptions as PlanOptions
from .options import WriteOptions
from .ray_pool import ClusterOptions, connected

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...formats.workers import Pool
    from ...quantize.execute import Job
    from ...quantize.plan import MakeLayout
    from ...quantize.refine.refiner import Refiner

_DEFAULT_WRITE = WriteOptions()


def with_imatrix(
    options: PlanOptions,
    model: Model,
    imatrix: Path | None,
    *,
    name: str | None = None,
    refine: bool = False,
    refine_width: int = 256,
) -> tuple[PlanOptions, Refiner | None]:
    """Add what an importance matrix's file holds to a plan's options.

    Args:
        options: the options; returned as they are if ``imatrix`` is None.
        model: the model to plan for.
        imatrix: the file, ``.gguf`` or ``.dat``.
        name: the file's name as it is noted in the output; None for the path itself.
        refine: use the file's second moments to let later weights correct the errors of earlier ones.
        refine_width: how many columns correct each other, at most; rounded down to a multiple of 256.

    Returns:
        the options, and what refines the weights, or None.

    Raises:
        PlanError: the file holds no tensor of the model, or no second moments; or ``refine`` is given without a file.
        FormatError: the file is damaged.
    """
    if imatrix is None:
        if refine:
            hint = "--imatrix FILE, made by imatrix --second-moments"
            raise PlanError("needs an importance matrix with second moments", where="--refine", hint=hint)
        return options, None
    from ...formats.imatrix_file import read_imatrix

    read = read_imatrix(imatrix)
    importance = read.vectors()
    if not any(tensor.name in importance for tensor in model):
        raise PlanError("holds no tensor of this model", path=imatrix, hint="it was made from another model")
    options = replace(options, importance=importance, extra_metadata=read.provenance(name or imatrix))
    if not refine:
        return options, None
    if read.moments is None:
        raise PlanError("holds no second moments", path=imatrix, hint="make it with imatrix --second-moments")
    from ...quantize.refine.refiner import Refiner

    refiner = Refiner(read.moments, max(256, refine_width // 256 * 256))
    return replace(options, moments=refiner.moments), refiner


def gguf_layout(options: WriteOptions) -> MakeLayout:
    """The layout of GGUF files of the requested version and byte order."""
    from ...formats.gguf.writer import layout

    return partial(layout, version=options.gguf_version, byteorder="big" if options.big_endian else "little")


def write_plans(
    jobs: Sequence[Job],
    *,
    refiner: Refiner | None = None,
    options: WriteOptions = _DEFAULT_WRITE,
    inputs: Sequence[Path] = (),
    cluster: ClusterOptions | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the files of plans of one model, on this machine or on a cluster.

    Args:
        jobs: the plans, made with the same importance, and their files.
        refiner: refines the steps that are to be refined, or None.
        options: how files are written.
        inputs: files that are read besides the model, which no output may replace.
        cluster: the Ray cluster that does the work; None for this machine.
        progress: called with typed events.

    Raises:
        PlanError, WeightError, OutputError: see ``quantize.execute.execute_all``.
    """
    from ...quantize.execute import execute_all
    from ...quantize.threads import cpu_count
    from ...quantize.warm import warm

    types = {step.type for job in jobs for step in job.plan.steps if step.type is not step.tensor.qtype}
    with _open_pool(cluster, options.threads, progress) as pool:
        warm(types, options.threads or cpu_count(), notes(progress))
        execute_all(
            jobs, threads=options.threads, refiner=refiner, progress=progress,
            force=options.force, inputs=inputs, restart=options.restart, pool=pool,
        )  # fmt: skip


def _open_pool(
    cluster: ClusterOptions | None, threads: int | None, progress: Progress | None
) -> AbstractContextManager[Pool | None]:
    if cluster is None:
        return nullcontext()
    if threads is not None:
        raise PlanError("is for one machine", where="--threads", hint="--workers limits the workers of a cluster")
    return connected(cluster.address, cluster.workers, say=notes(progress))
