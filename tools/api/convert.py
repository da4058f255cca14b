"""Convert a model of any kind to another, quantized if asked for: the function behind ``convert`` and ``quantize``."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.gguf.image_archs import is_image
from ...formats.progress import Progress, note, notes
from ...formats.storage.output import check_target as check_target_file
from .checks import (
    check_cluster,
    check_layout,
    check_read,
    check_target,
    check_write,
    plan_options_given,
    refuse,
)
from .conversion import (
    FLOATS,
    Conversion,
    Request,
    note_client_options,
    write_checkpoint,
    write_copy,
    write_image_model,
)
from .hub import described_folder, source_at_hand
from .mmproj import check_towers, plan_towers, read_towers
from .models import output_path, read_model, source_kind, target_kind
from .naming import described
from .options import Kind, MmprojOptions, ReadOptions, SizeTarget, SplitOptions, StrPath, WriteOptions
from .planning import check_refine, report_importance, with_imatrix
from .ray_pool import ClusterOptions, connected
from .refining import open_refinement
from .running import DEFAULT_RUN, RunOptions, run_options_given
from .splitting import check_split, jobs_of, missing_jobs, split_options_given

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...formats.workers import Pool
    from ...quantize.execute import Job
    from ...quantize.plan import MakeLayout, Plan, PlanOptions
    from ...quantize.refine.refiner import Refiner
    from .refining import TextRefinement

_DEFAULT_READ, _DEFAULT_WRITE = ReadOptions(), WriteOptions()
_PRUNE_FIRST = "prune to a file first: quantize MODEL OUT COPY --prune-layers"
_MOMENTS_FIRST = "make moments with imatrix --second-moments, and give --imatrix"
_NAME_A_LEVEL = "leave it out, or name a level such as Q4_K_M"


def convert(
    src: StrPath | Model,
    dst: StrPath | None = None,
    level: str = "auto",
    *,
    imatrix: StrPath | None = None,
    refine: bool = False,
    refine_width: int | None = None,
    text: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    target: SizeTarget | None = None,
    options: PlanOptions | None = None,
    kind: Kind | None = None,
    keep_split: bool = False,
    split: SplitOptions | None = None,
    read: ReadOptions = _DEFAULT_READ,
    write: WriteOptions = _DEFAULT_WRITE,
    mmproj: MmprojOptions | None = None,
    cluster: ClusterOptions | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a model to a GGUF file, a GGML file or a Hugging Face folder, quantized if a level is given.

    Each tensor goes straight from the source to its final type, a few rows at a time. An interrupted run leaves its
    unfinished output beside ``dst``, and the same call resumes it.

    Args:
        src: a Hugging Face folder, a GGUF file (or any of its shards), a GGML file, a LoRA adapter's folder as PEFT
            writes it, a model on the hub (see ``local_path``), or a model that was read before.
        dst: the file or folder to write; None for the usual name beside the source, such as ``model.Q4_K_M.gguf``.
        level: a level such as ``Q4_K_M``, or a float type. ``auto`` keeps the tensors of a file as they are, and gives
            those of a checkpoint its own 16-bit type, or the blocks that a GGUF file can hold exactly.
        imatrix: an importance matrix's file, as ``collect_imatrix`` writes it.
        refine: let later weights correct the errors of earlier ones. With ``imatrix``, by its second moments. Without,
            ``text`` runs through the model and through what it becomes, and each weight is chosen for the inputs that
            it will have; see ``TextRefinement``.
        refine_width: how many columns correct each other, at most, a multiple of 256. None for 256 with ``imatrix``,
            and without for what serves each matrix best on chunks that are kept aside.
        text: the text to refine by, a UTF-8 file; None for the one that ships with the package.
        run: which chunks of the text.
        target: a size to choose each tensor's type for, instead of ``level``.
        options: how to depart from the level's recipe; see ``PlanOptions``.
        kind: what to write; None to tell from ``dst``: ``.gguf``, ``.bin`` for GGML, otherwise a folder.
        keep_split: write as many shards as the source has; ``dst`` is what their names begin with.
        split: write shards, by size or as the source is split; ``keep_split`` is short for ``SplitOptions(keep=True)``.
        read: how the source is read.
        write: how the output is written.
        mmproj: write the towers of a model that sees or hears, or read them where a folder is written; None to leave
            them out.
        cluster: a Ray cluster that does the work; only for a file written at a level.
        dry_run: plan everything, and write nothing.
        progress: called with typed events from any thread; see ``formats/progress.py``.

    Returns:
        what was written, with the plan if there was one.

    Raises:
        FormatError: the source is damaged or unknown. PlanError: something that was asked for is impossible; no weight
            has been read then. ImportanceMissing: tensors need importance at this level and have none. WeightError: a
            weight is NaN or infinite. OutputError: the output exists and ``write.force`` is False, or cannot be
            written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import convert, write_gguf
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> model = model_from_arrays("llama", {"blk.0.ffn_up.weight": np.ones((8, 256), np.float32)})
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_gguf(Path(folder, "tiny-f32.gguf"), model)
        ...     done = convert(Path(folder, "tiny-f32.gguf"), Path(folder, "tiny.Q4_K_M.gguf"), "Q4_K_M")
        >>> done.paths[0].name, [step.type.name for step in done.plan.steps]
        ('tiny.Q4_K_M.gguf', ['Q4_K'])
    """
    from ...formats.ir import Model
    from ...quantize.plan import PlanOptions

    start = time.monotonic()
    options = options or PlanOptions()
    check_layout(options)
    # Whatever reads the weights several times, or in another process, has them on this machine first.
    arrive = cluster is None and mmproj is None and not refine and target is None
    with source_at_hand(src, dst, arrive=arrive, stream=read.stream, progress=progress) as (src, elsewhere):
        source = None if isinstance(src, Model) else read.kind or source_kind(src)
        check_read(source, read)
        is_adapter = source == "lora"
        kind = kind or ("gguf" if is_adapter or dst is None else target_kind(Path(dst)))
        if mmproj is not None:
            check_towers(mmproj, source, kind)
        towers: Job | None = None
        if isinstance(src, Model):
            model = src
        elif is_adapter:
            model = _read_adapter(Path(src), read, level, progress)
        elif mmproj is not None and mmproj.only:
            model, level = read_towers(Path(src), mmproj, read, progress), mmproj.level
        else:
            if mmproj is not None and source == "hf":
                towers = plan_towers(Path(src), Path(src if dst is None else dst), mmproj, read, write, progress)
                check_target_file(towers.path, towers.path, write.force, [])
            model = read_model(src, read, elsewhere=elsewhere, progress=progress)
        shards = SplitOptions(keep=keep_split) if split is None else replace(split, keep=keep_split or split.keep)
        check_split(shards)
        request = Request(model, None if dst is None else Path(dst), write, cluster, shards, dry_run, progress)
        if is_adapter and kind != "gguf":
            raise PlanError("an adapter becomes a GGUF file", where="--to", hint="leave it out")
        check_write(kind, write)
        if kind != "gguf":
            named = {"--model-name": read.model_name is not None, "--metadata": read.metadata is not None}
            refuse({**named, "--vocab-only": read.vocab_only}, "it is for GGUF files")
        auto = level.lower() == "auto"
        if kind == "ggml" and is_image(model.arch):
            raise PlanError("GGML files hold text models", path=model.path, hint="give a name that ends in .gguf")
        for_levels = {
            "--imatrix": imatrix is not None, "--refine": refine, "--file": text is not None,
            "--refine-width": refine_width is not None, **run_options_given(run),
        }  # fmt: skip
        for_plans = {
            **for_levels, **plan_options_given(options), "target": target is not None,
            "--cluster": cluster is not None, **split_options_given(shards),
        }  # fmt: skip
        if is_adapter or kind in ("hf", "safetensors"):
            what = "a Hugging Face folder" if kind == "hf" else "a safetensors file"
            refuse(for_plans, "an adapter is not quantized" if is_adapter else f"{what} holds floats")
            if is_adapter:
                done = write_copy(request, "gguf")
            elif kind == "safetensors" or is_image(model.arch):
                done = write_image_model(request, level, kind)
            else:
                done = write_checkpoint(request, level, mmproj)
        elif target is None and auto and not model.from_checkpoint:
            refuse(for_plans, "without a level the tensors are copied as they are", _NAME_A_LEVEL)
            done = write_copy(request, kind)
        else:
            if target is None and auto:
                refuse(for_levels, "without a level nothing is quantized", _NAME_A_LEVEL)
            if target is not None:
                check_target(target, level, kind)
                refuse({"--prune-layers": bool(options.prune_layers)}, "a target is for the whole model", _PRUNE_FIRST)
            if kind == "ggml":
                refuse(_for_gguf(options, level), "GGML files hold no such keys")
            check_cluster(cluster, write.threads)
            by_text = refine and imatrix is None
            check_refine(refine, refine_width)
            if not by_text:
                refuse(
                    {"--file": text is not None, **run_options_given(run)},
                    "it needs --refine, and no --imatrix" if not refine else "--imatrix says what to refine by",
                )
            elif cluster is not None:
                raise PlanError("cannot refine by a text", where="--cluster", hint=_MOMENTS_FIRST)
            if auto and kind == "ggml" and model.from_checkpoint:
                level = "F16"  # the only 16-bit type of GGML files
            planned, options = _for_kind(request, kind, options)
            refinement = None
            if by_text:
                refinement = open_refinement(planned, text, run=run, width=refine_width, progress=progress)
                if target is None:
                    options = refinement.plan_options(options)
            with _collected(request, text, run, refine_width, by_text and target is not None) as collected:
                used = collected or (None if imatrix is None else Path(imatrix))
                refiner = None
                if refinement is None or target is not None:
                    name = None if refinement is None else refinement.text_name
                    options, refiner = with_imatrix(
                        options, planned, used, name=name, refine=refine, refine_width=refine_width, progress=progress
                    )
                inputs = [] if used is None else [used]
                done = _quantize(request, planned, level, target, kind, options, refiner, refinement, inputs)
        if towers is not None:
            if not dry_run:
                write_plans([towers], options=write, progress=progress)
            done = replace(done, mmproj=towers.path)
    return replace(done, written=not dry_run, seconds=time.monotonic() - start)


def _for_gguf(options: PlanOptions, level: str) -> dict[str, bool]:
    """What only GGUF files can have."""
    return {
        "--override-kv": bool(options.overrides),
        "--no-imatrix-metadata": not options.imatrix_metadata,
        "COPY": level.upper() == "COPY",
    }


def _read_adapter(src: Path, read: ReadOptions, level: str, progress: Progress | None) -> Model:
    from ...formats.hf.adapters.read import read_lora
    from ...formats.qtypes import BY_NAME

    dtype = "F32" if level.lower() == "auto" else level.upper()
    if dtype not in FLOATS:
        raise PlanError(f"an adapter cannot be {level}", hint=f"--outtype auto, {', '.join(FLOATS)}")
    # Of a base on the hub only its configuration and the headers of its weights are read.
    base = None if read.lora_base is None else described_folder(read.lora_base, progress=progress)[0]
    adapter = read_lora(src, base, BY_NAME[dtype], follow_links=read.follow_links, say=notes(progress, important=True))
    return described(adapter, read)


@contextmanager
def _collected(
    request: Request, text: StrPath | None, run: RunOptions, width: int | None, wanted: bool
) -> Iterator[Path | None]:
    """Collect importance and second moments from a text, if they are wanted. The file lies beside the output until that
    is complete, so that a run which is interrupted need not collect them again."""
    if not wanted:
        yield None
        return
    from ...formats.storage.source import file_stamps
    from .importance import collect_imatrix

    src = request.model.path
    beside = request.dst or output_path(src, "text")
    digest = hashlib.sha256(f"{file_stamps([src])} {text} {run} {width}".encode("utf-8", "surrogateescape")).hexdigest()
    path = beside.with_name(f".{beside.name}.{digest[:8]}.imatrix.gguf")
    if not path.exists():
        collect_imatrix(
            src, path, text=text, run=run, perplexity=False, second_moments=True, moments_width=width,
            progress=request.progress,
        )  # fmt: skip
    yield path
    path.unlink()


def _quantize(
    request: Request,
    model: Model,
    level: str,
    target: SizeTarget | None,
    kind: Kind,
    options: PlanOptions,
    refiner: Refiner | None,
    refinement: TextRefinement | None,
    inputs: list[Path],
) -> Conversion:
    """Plan the file and write it."""
    from ...quantize.plan import make_plan

    budget = None
    if target is not None:
        from .target import plan_for_target

        threads, progress = request.write.threads, request.progress
        budget = plan_for_target(model, target, options, refiner=refiner, threads=threads, progress=progress)
        plan = budget.plan
        path = request.output(f"{plan.bpw:.2f}bpw", kind)
    else:
        plan = make_plan(model, level, options)
        path = request.output(plan.level, kind)
    if (refiner or refinement) is not None and not any(step.refined for step in plan.steps):
        hint = "leave --refine out" + (", or make an imatrix of this model with --second-moments" if inputs else "")
        where = inputs[0] if inputs else model.path
        raise PlanError(f"no tensor of {plan.level} can be refined", path=where, hint=hint)
    for file in inputs:
        report_importance(plan, file, request.progress)
    for line in plan.remarks:
        note(request.progress, line, important=True)
    jobs = jobs_of(plan, path, request.split, options.layout)
    missing = missing_jobs(jobs, request.progress) if request.split.partial else jobs
    if not request.dry_run and missing:
        with _refined(request, refinement, plan, path, missing) as (whole, write):
            write_plans(
                [job for job in jobs_of(whole, path, request.split, options.layout) if job.path in _paths(missing)],
                refiner=None if refinement is not None else refiner,
                options=write,
                inputs=inputs,
                cluster=request.cluster,
                progress=request.progress,
            )
        note_client_options(request, kind, plan.metadata, path)
    size = sum(one.plan.size for one in jobs)
    return Conversion(request.model, kind, tuple(one.path for one in jobs), size, plan, budget)


def _paths(jobs: Sequence[Job]) -> set[Path]:
    return {job.path for job in jobs}


@contextmanager
def _refined(
    request: Request, refinement: TextRefinement | None, plan: Plan, path: Path, jobs: Sequence[Job]
) -> Iterator[tuple[Plan, WriteOptions]]:
    """The plan, refined by a text if there is one, and how it is written: anew, unless all was refined before."""
    if refinement is None:
        yield plan, request.write
        return
    write = request.write
    for job in jobs:  # before the long work
        check_target_file(job.path, Path(os.path.realpath(job.path)), write.force, plan.source.paths)
    with refinement.refined(plan, path, threads=write.threads, restart=write.restart, progress=request.progress) as (
        refined,
        resumed,
    ):
        yield refined, replace(write, restart=write.restart or not resumed)


def _for_kind(request: Request, kind: Kind, options: PlanOptions) -> tuple[Model, PlanOptions]:
    """The model and the options as the kind of file needs them."""
    if kind != "ggml":
        return request.model, replace(options, layout=_gguf_layout(request.write))
    from ...formats.ggml.writer import layout, untied

    refuse(split_options_given(request.split), "a GGML file has no shards")
    return untied(request.model), replace(options, layout=layout, recipe_set=options.recipe_set or "ggml-v3")


def _gguf_layout(options: WriteOptions) -> MakeLayout:
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
    check_cluster(cluster, threads)
    return connected(cluster.address, cluster.workers, say=notes(progress))
