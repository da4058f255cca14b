"""What ``convert`` was asked for and what it made; writing models whose tensors are not quantized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.progress import Note, Progress, note, notes, work
from ...formats.version import __version__
from .models import output_path
from .naming import filled
from .options import Kind, MmprojOptions, SplitOptions, WriteOptions

if TYPE_CHECKING:
    from ...formats.ir import Bytes, Metadata, Model, Tensor
    from ...quantize.budget.plans import BudgetedPlan
    from ...quantize.plan import Plan
    from .ray_pool import ClusterOptions

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` wrote, or would write.

    Args:
        model: the model as it was read; its floats for a Hugging Face folder.
        kind: what was written: ``gguf``, ``ggml``, ``hf`` or ``safetensors``.
        paths: the file or the folder; each shard's file if the source's shards were kept.
        size: bytes of all files; for a folder, of its tensors as they decode.
        plan: what became of each tensor; None if all were written as they are.
        budget: the choice of types for a target size, or None.
        written: False after a dry run.
        seconds: how long it took.
        mmproj: the file of the model's towers that was written beside, or None.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import convert, tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     done = convert(tiny_llama(), f"{folder}/tiny.gguf", "Q8_0", dry_run=True)
        >>> done.kind, done.written, done.size == done.plan.size
        ('gguf', False, True)
    """

    model: Model
    kind: Kind
    paths: tuple[Path, ...]
    size: int
    plan: Plan | None = None
    budget: BudgetedPlan | None = None
    written: bool = True
    seconds: float = 0.0
    mmproj: Path | None = None


@dataclass(frozen=True)
class Request:
    """What every way of writing needs; see ``convert``."""

    model: Model
    dst: Path | None
    write: WriteOptions
    cluster: ClusterOptions | None
    split: SplitOptions
    dry_run: bool
    progress: Progress | None

    def output(self, level: str, kind: Kind) -> Path:
        """The output's path, for a file of that level."""
        return output_path(self.model.path, level, kind) if self.dst is None else filled(self.dst, level)

    def level_of_source(self) -> str:
        """The level that the source says to be of, for the name of a copy."""
        from ...formats.gguf.keys import GENERAL_FILE_TYPE, LEVEL_OF_FILE_TYPE

        number = self.model.get(GENERAL_FILE_TYPE)
        return LEVEL_OF_FILE_TYPE.get(number, "COPY") if isinstance(number, int) else "COPY"


def write_copy(request: Request, kind: Kind) -> Conversion:
    """Write a file with the tensors as they are: of another kind, version or byte order."""
    model, write = request.model, request.write
    _note_threads(request)
    if request.dst is None:
        raise PlanError("a file without a level needs an output", where="dst")
    path = request.output(request.level_of_source(), kind)
    size = sum(tensor.nbytes for tensor in model)
    if kind == "ggml":
        from ...formats.ggml.writer import write_ggml

        if not request.dry_run:
            size = write_ggml(path, model, force=write.force, restart=write.restart, progress=request.progress).size
            note_client_options(request, kind, model.metadata, path)
    elif not request.dry_run:
        from ...formats.gguf.writer import write_gguf

        size = write_gguf(
            path, model, version=write.gguf_version, byteorder="big" if write.big_endian else "little",
            force=write.force, restart=write.restart, progress=request.progress,
        ).size  # fmt: skip
    return Conversion(model, kind, (path,), size)


def write_checkpoint(request: Request, level: str, mmproj: MmprojOptions | None = None) -> Conversion:
    """Write a Hugging Face folder, with quantized tensors decoded; with ``mmproj``, the towers of that file in it."""
    from ...formats.gguf.reader import read_gguf
    from ...formats.hf.save import write_hf
    from ...formats.storage.folder import resumable_folder
    from ...quantize.decode import as_float

    _note_threads(request)
    if request.dst is None:
        raise PlanError("a checkpoint needs an output folder", where="dst")
    dst, write, dtype = request.dst, request.write, _float_level(level)
    model = as_float(request.model)
    towers = None if mmproj is None or mmproj.file is None else as_float(read_gguf(mmproj.file))
    models = [model] if towers is None else [model, towers]
    size = sum(tensor.nbytes for one in models for tensor in one)
    if not request.dry_run:
        with (
            resumable_folder(
                dst, _digest(models, dtype), inputs=[one.path for one in models],
                force=write.force, restart=write.restart, say=notes(request.progress),
            ) as folder,
            work(request.progress, dst.name, size) as done,
        ):  # fmt: skip
            watched = [one if done is None else _watched(one, done) for one in models]
            write_hf(watched[0], folder, towers=None if towers is None else watched[1], dtype=dtype)
    return Conversion(model, "hf", (dst,), size)


def write_image_model(request: Request, level: str, kind: Kind) -> Conversion:
    """Write a model that makes images as a safetensors file in its original layout, or as a folder of diffusers."""
    from ...formats.diffusion.restore import config_of, file_of, layout_of, restored, write_diffusers
    from ...formats.gguf.writer import write_laid_out
    from ...formats.storage.folder import resumable_folder
    from ...quantize.decode import as_float

    _note_threads(request)
    dst, dtype = request.dst, _float_level(level)
    if dst is None:
        raise PlanError("an image model needs an output", where="dst")
    layout_of(request.model)
    model, write = as_float(request.model), request.write
    quantized = {tensor.name for tensor in request.model if tensor.qtype.is_quantized}
    tensors = restored(model, quantized=quantized, dtype=dtype)
    size = sum(tensor.nbytes for tensor in tensors)
    if kind == "hf":
        config_of(model)
    if not request.dry_run:
        with work(request.progress, dst.name, size) as done:
            if kind == "safetensors":
                whole, layout = file_of(model, tensors)
                write_laid_out(
                    dst, whole, layout, force=write.force, restart=write.restart, done=done, say=notes(request.progress)
                )
            else:
                with resumable_folder(
                    dst, _digest([model], dtype), inputs=[model.path], force=write.force, restart=write.restart,
                    say=notes(request.progress),
                ) as folder:  # fmt: skip
                    watched = replace(model, tensors=tuple(tensors))
                    write_diffusers(folder, model, list(watched if done is None else _watched(watched, done)))
    return Conversion(model, kind, (dst,), size)


def _float_level(level: str) -> str:
    """A float type, or ``auto``. Raises ``PlanError`` for what a checkpoint cannot hold."""
    dtype = level.lower() if level.lower() == "auto" else level.upper()
    if dtype not in ("auto", *FLOATS):
        raise PlanError(f"a checkpoint cannot hold {level}", hint=f"--outtype auto, {', '.join(FLOATS)}")
    return dtype


def _note_threads(request: Request) -> None:
    if request.write.threads is not None:
        note(request.progress, "--threads has no effect: the tensors are written one after the other", important=True)


def _digest(models: Sequence[Model], dtype: str) -> str:
    """A digest of everything that the checkpoint's files depend on."""
    from ...formats.gguf.wire import encode_value
    from ...formats.storage.source import file_stamps
    from ...quantize.kernels.cachedir import sources_digest

    digest = hashlib.sha256(f"{__version__} {sources_digest()} {dtype}\n".encode())
    for model in models:
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


def note_client_options(request: Request, kind: Kind, metadata: Metadata, path: Path) -> None:
    """Report what a GGML file's client must be given."""
    if kind != "ggml" or request.progress is None:
        return
    from ...formats.ggml.writer import client_options, vocabulary_warning

    if warning := vocabulary_warning(metadata):
        request.progress(Note(f"warning: {path}: {warning}"))
    request.progress(Note(f"{path}: give the client what the file does not store: {client_options(metadata)}"))
