"""The towers of a model that sees or hears, as ``convert`` reads and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.hf.files.hub_cache import checkpoint_name
from ...formats.progress import Progress, notes
from .models import source_kind
from .naming import described
from .options import Kind, MmprojOptions, ReadOptions, WriteOptions

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.execute import Job


def read_towers(src: Path, options: MmprojOptions, read: ReadOptions, progress: Progress | None) -> Model:
    """Read the towers of a checkpoint.

    Raises:
        PlanError: the source is no checkpoint. Others as for ``read_mmproj``.
    """
    if (read.kind or source_kind(src)) != "hf":
        raise PlanError("is for a checkpoint's folder, and the source is not one", where="--mmproj-only")
    from ...formats.hf.mistral_params import has_params_alone

    if read.mistral_format or has_params_alone(src):
        hint = "convert the text model without it, and the towers from the model's Hugging Face folder"
        raise PlanError("towers in Mistral's own format are not read", where="--mmproj", hint=hint)
    from ...formats.hf.mmproj import read_mmproj

    given = {"image_mean": options.image_mean, "image_std": options.image_std}
    towers = read_mmproj(
        src,
        given={key: list(values) for key, values in given.items() if values is not None},
        follow_links=read.follow_links,
        say=notes(progress, important=True),
    )
    return described(towers, read)


def plan_towers(
    src: Path, dst: Path, options: MmprojOptions, read: ReadOptions, write: WriteOptions, progress: Progress | None
) -> Job:
    """Plan the mmproj file that is written beside the text model's file ``dst``."""
    from functools import partial

    from ...formats.gguf.writer import layout
    from ...quantize.execute import Job
    from ...quantize.plan import PlanOptions, make_plan

    made = partial(layout, version=write.gguf_version, byteorder="big" if write.big_endian else "little")
    plan = make_plan(read_towers(src, options, read, progress), options.level, PlanOptions(layout=made))
    usual = dst.parent / f"mmproj-{checkpoint_name(src)}-{plan.level}.gguf"
    return Job(plan, options.file or usual)


def check_towers(options: MmprojOptions, source: str | None, kind: Kind) -> None:
    """Raise ``PlanError`` where there is nothing to do with towers, or not enough.

    Args:
        source: the kind of the source; None for a model that was read before.
        kind: the kind of the target.
    """
    if source == "hf" and kind == "gguf":
        return
    if options.only:
        raise PlanError("writes a GGUF file of a checkpoint's towers", where="--mmproj-only", hint="name DST .gguf")
    if kind != "hf" or source == "hf":
        hint = "it is written from a checkpoint to a GGUF file, and read from a GGUF file to a checkpoint"
        raise PlanError("has no effect here", where="--mmproj", hint=hint)
    if options.file is None:
        raise PlanError("needs the file to read", where="--mmproj", hint="--mmproj mmproj-model-F16.gguf")
