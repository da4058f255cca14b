"""Convert a model of any kind to another, quantized if asked for: the function behind ``convert`` and ``quantize``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ...formats.errors import PlanError
from ...formats.progress import Note, Progress, notes, work
from .models import output_path, read_model, source_kind, target_kind
from .options import Kind, ReadOptions, SizeTarget, StrPath, WriteOptions
from .planning import gguf_layout, with_imatrix, write_plans
from .ray_pool import ClusterOptions

if TYPE_CHECKING:
    from ...formats.ir import Bytes, Metadata, Model, Tensor
    from ...quantize.budget.plans import BudgetedPlan
    from ...quantize.plan import Plan, PlanOptions
    from ...quantize.refine.refiner import Refiner

_FLOATS = ("F32", "F16", "BF16")
_DEFAULT_READ, _DEFAULT_WRITE = ReadOptions(), WriteOptions()


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` wrote, or would write.

    Args:
        model: the model as it was read; its floats for a Hugging Face folder.
        kind: what was written: ``gguf``, ``ggml`` or ``hf``.
        paths: the file or the folder; each shard's file if the source's shards were kept.
        size: bytes of all files; for a folder, of its tensors as they decode.
        plan: what became of each tensor; None if all were written as they are.
        budget: the choice of types for a target size, or None.
        written: False after a dry run.
        seconds: how long it took.
    """

    model: Model
    kind: Kind
    paths: tuple[Path, ...]
    size: int
    plan: Plan | None = None
    budget: BudgetedPlan | None = None
    written: bool = True
    seconds: float = 0.0


def convert(
    src: StrPath | Model,
    dst: StrPath | None = None,
    level: str = "auto",
    *,
    imatrix: StrPath | None = None,
    refine: bool = False,
    refine_width: int = 256,
    text: StrPath | None = None,
    target: SizeTarget | None = None,
    options: PlanOptions | None = None,
    kind: Kind | None = None,
    keep_split: bool = False,
    read: ReadOptions = _DEFAULT_READ,
    write: WriteOptions = _DEFAULT_WRITE,
    cluster: ClusterOptions | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a model to a GGUF file, a GGML file or a Hugging Face folder, quantized if a level is given.

    Each tensor goes straight from the source to its final type, a few rows at a time. An interrupted run leaves its
    unfinished output beside ``dst``, and the same call resumes it.

    Args:
        src: a Hugging Face folder, a GGUF file (or any of its shards), a GGML file, a LoRA adapter's folder as PEFT
            writes it, or a model that was read before.
        dst: the file or folder to write; None for the usual name beside the source, such as ``model.Q4_K_M.gguf``.
        level: a level such as ``Q4_K_M``, or a float type. ``auto`` keeps the tensors of a file as they are, and gives
            those of a checkpoint its own 16-bit type, or the blocks that a GGUF file can hold exactly.
        imatrix: an importance matrix's file, as ``collect_imatrix`` writes it.
        refine: let later weights correct the errors of earlier ones; needs second moments in ``imatrix``, or ``text``.
        refine_width: how many columns correct each other, at most; a multiple of 256.
        text: a text to collect importance and second moments from before refining, instead of ``imatrix``.
        target: a size to choose each tensor's type for, instead of ``level``.
        options: how to depart from the level's recipe; see ``PlanOptions``.
        kind: what to write; None to tell from ``dst``: ``.gguf``, ``.bin`` for GGML, otherwise a folder.
        keep_split: write as many shards as the source has; ``dst`` is what their names begin with.
        read: how the source is read.
        write: how the output is written.
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
    if isinstance(src, Model):
        model, is_adapter = src, False
    else:
        source = read.kind or source_kind(Path(src))
        _check_read(source, read)
        is_adapter = source == "lora"
        model = _read_adapter(Path(src), read, level) if is_adapter else read_model(src, read, progress=progress)
    job = _Job(model, None if dst is None else Path(dst), write, cluster, keep_split, dry_run, progress)
    kind = kind or ("gguf" if job.dst is None else target_kind(job.dst))
    if text is not None and (not refine or imatrix is not None or dry_run):
        raise PlanError("needs --refine, and neither --imatrix nor --dry-run", where="--file")
    if is_adapter:
        done = _copy(job, "gguf")
    elif kind == "hf":
        done = _write_checkpoint(job, level)
    elif target is None and level.lower() == "auto" and not model.from_checkpoint:
        done = _copy(job, kind)
    else:
        if level.lower() == "auto" and kind == "ggml" and model.from_checkpoint:
            level = "F16"  # the only 16-bit type of GGML files
        with _collected(job, text) as collected:
            used = collected or (None if imatrix is None else Path(imatrix))
            name = None if text is None else Path(text).name
            options, refiner = with_imatrix(
                options or PlanOptions(), model, used, name=name, refine=refine, refine_width=refine_width
            )
            done = _quantize(job, level, target, kind, options, refiner, [] if used is None else [used])
    return replace(done, written=not dry_run, seconds=time.monotonic() - start)


@dataclass(frozen=True)
class _Job:
    """What every way of writing needs; see ``convert``."""

    model: Model
    dst: Path | None
    write: WriteOptions
    cluster: ClusterOptions | None
    keep_split: bool
    dry_run: bool
    progress: Progress | None

    def output(self, level: str, kind: Kind) -> Path:
        """The output's path, for a file of that level."""
        return self.dst or output_path(self.model.path, level, kind)


def _check_read(source: str, read: ReadOptions) -> None:
    """Raise ``PlanError`` for options that say something of another kind of source."""
    settings = {} if read.ggml is None else vars(read.ggml)
    for name, value in settings.items():
        if value is not None and source != "ggml":
            raise PlanError("is for GGML files, and the source is not one", where=f"--{name.replace('_', '-')}")
    if read.lora_base is not None and source != "lora":
        raise PlanError("is for LoRA adapters, and the source is not one", where="--base")


def _read_adapter(src: Path, read: ReadOptions, level: str) -> Model:
    from ...formats.hf.lora import read_lora
    from ...formats.qtypes import BY_NAME

    dtype = "F32" if level.lower() == "auto" else level.upper()
    if dtype not in _FLOATS:
        raise PlanError(f"an adapter cannot be {level}", hint=f"--outtype auto, {', '.join(_FLOATS)}")
    return read_lora(src, read.lora_base, BY_NAME[dtype])


@contextmanager
def _collected(job: _Job, text: StrPath | None) -> Iterator[Path | None]:
    """Collect importance and second moments from a text, if one is given. The file lies beside the output until that is
    complete, so that a run which is interrupted need not collect them again."""
    if text is None:
        yield None
        return
    from ...formats.storage.source import file_stamps
    from .importance import collect_imatrix

    src, beside = job.model.path, job.dst or job.model.path
    digest = hashlib.sha256(file_stamps([src]).encode("utf-8", "surrogateescape") + str(text).encode()).hexdigest()
    path = beside.with_name(f".{beside.name}.{digest[:8]}.imatrix.gguf")
    if not path.exists():
        collect_imatrix(src, path, text=text, perplexity=False, second_moments=True, progress=job.progress)
    yield path
    path.unlink()


def _quantize(
    job: _Job,
    level: str,
    target: SizeTarget | None,
    kind: Kind,
    options: PlanOptions,
    refiner: Refiner | None,
    inputs: list[Path],
) -> Conversion:
    """Plan the file and write it."""
    from ...quantize.execute import Job
    from ...quantize.plan import make_plan

    model, options = _for_kind(job, kind, options)
    budget = None
    if target is not None:
        if kind == "ggml":
            raise PlanError("a target size is for GGUF files", where="target")
        from .target import plan_for_target

        threads, progress = job.write.threads, job.progress
        budget = plan_for_target(model, target, options, refiner=refiner, threads=threads, progress=progress)
        plan = budget.plan
        path = job.output(f"{plan.bpw:.2f}bpw", kind)
    else:
        plan = make_plan(model, level, options)
        path = job.output(plan.level, kind)
        if refiner is not None and not any(step.refined for step in plan.steps):
            hint = "leave --refine out, or make an imatrix of this model with --second-moments"
            raise PlanError(f"no tensor of {plan.level} can be refined", path=inputs[0], hint=hint)
    jobs = [Job(plan, path)]
    if job.keep_split:
        from ...quantize.sharded import split_as_source

        prefix = path.with_name(path.name.removesuffix(".gguf"))
        jobs = [Job(part, shard) for shard, part in split_as_source(plan, prefix, options.layout)]
    if not job.dry_run:
        write_plans(jobs, refiner=refiner, options=job.write, inputs=inputs, cluster=job.cluster, progress=job.progress)
        _note_client_options(job, kind, plan.metadata, path)
    size = sum(one.plan.size for one in jobs)
    return Conversion(job.model, kind, tuple(one.path for one in jobs), size, plan, budget)


def _for_kind(job: _Job, kind: Kind, options: PlanOptions) -> tuple[Model, PlanOptions]:
    """The model and the options as the kind of file needs them."""
    if kind != "ggml":
        return job.model, replace(options, layout=gguf_layout(job.write))
    from ...formats.ggml.writer import layout, untied

    if job.keep_split:
        raise PlanError("a GGML file has no shards", where="--keep-split", hint="leave it out")
    _check_little_endian(job.write)
    return untied(job.model), replace(options, layout=layout, recipe_set=options.recipe_set or "ggml-v3")


def _check_little_endian(write: WriteOptions) -> None:
    if write.big_endian:
        raise PlanError("a GGML file is little-endian", where="--big-endian", hint="leave it out")


def _note_client_options(job: _Job, kind: Kind, metadata: Metadata, path: Path) -> None:
    """Report what a GGML file's client must be given."""
    if kind != "ggml" or job.progress is None:
        return
    from ...formats.ggml.writer import client_options, vocabulary_warning

    if warning := vocabulary_warning(metadata):
        job.progress(Note(f"warning: {path}: {warning}"))
    job.progress(Note(f"{path}: give the client what the file does not store: {client_options(metadata)}"))


def _copy(job: _Job, kind: Kind) -> Conversion:
    """Write a file with the tensors as they are: of another kind, version or byte order."""
    _check_no_cluster(job)
    model, write = job.model, job.write
    if job.dst is None:
        raise PlanError("a file without a level needs an output", where="dst")
    path = job.dst
    size = sum(tensor.nbytes for tensor in model)
    if kind == "ggml":
        from ...formats.ggml.writer import write_ggml

        _check_little_endian(write)
        if not job.dry_run:
            size = write_ggml(path, model, force=write.force, restart=write.restart, progress=job.progress).size
            _note_client_options(job, kind, model.metadata, path)
    elif not job.dry_run:
        from ...formats.gguf.writer import write_gguf

        size = write_gguf(
            path, model, version=write.gguf_version, byteorder="big" if write.big_endian else "little",
            force=write.force, restart=write.restart, progress=job.progress,
        ).size  # fmt: skip
    return Conversion(model, kind, (path,), size)


def _write_checkpoint(job: _Job, level: str) -> Conversion:
    """Write a Hugging Face folder, with quantized tensors decoded."""
    from ...formats.hf.save import write_hf
    from ...formats.storage.folder import resumable_folder
    from ...quantize.decode import as_float

    _check_no_cluster(job)
    assert job.dst is not None  # only a path without a file's ending stands for a folder
    dst, write = job.dst, job.write
    dtype = level.lower() if level.lower() == "auto" else level.upper()
    if dtype not in ("auto", *_FLOATS):
        raise PlanError(f"a checkpoint cannot hold {level}", hint=f"--outtype auto, {', '.join(_FLOATS)}")
    model = as_float(job.model)
    size = sum(tensor.nbytes for tensor in model)
    if not job.dry_run:
        with (
            resumable_folder(
                dst, _digest(model, dtype), inputs=[model.path], force=write.force, restart=write.restart,
                say=notes(job.progress),
            ) as folder,
            work(job.progress, dst.name, size) as done,
        ):  # fmt: skip
            write_hf(model if done is None else _watched(model, done), folder, dtype=dtype)
    return Conversion(model, "hf", (dst,), size)


def _check_no_cluster(job: _Job) -> None:
    if job.cluster is not None:
        raise PlanError("is only for a file that is written at a level", where="--cluster", hint="leave it out")


def _digest(model: Model, dtype: str) -> str:
    """A digest of everything that the checkpoint's files depend on."""
    from ...formats.gguf.wire import encode_value
    from ...formats.storage.source import file_stamps
    from ...quantize.kernels.cachedir import sources_digest

    digest = hashlib.sha256(f"{__version__} {sources_digest()} {dtype}\n".encode())
    for key, value in model.metadata.items():
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0" + encode_value(value))
    for tensor in model:
        digest.update(f"{tensor.name} {tensor.qtype} {tensor.shape}\n".encode("utf-8", "surrogateescape"))
    digest.update(file_stamps(model.paths).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _watched(model: Model, done: Callable[[int], object]) -> Model:
    """The model, calling ``done`` with the bytes of rows that are read from it."""

    def watch(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            rows = tensor.read(a, b)
            done(rows.nbytes)
            return rows

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(watch(tensor) for tensor in model))
