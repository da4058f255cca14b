"""``convert``: a Hugging Face checkpoint to GGUF (plain or quantized, in one pass), or a GGUF file back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import PlanError
from .files import KINDS, read_model, source_kind, target_kind
from .options import plan_options, write_options

if TYPE_CHECKING:
    from ..formats.ir import Bytes, Model, Tensor

_FLOATS = ("F32", "F16", "BF16")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--outtype",
    default="auto",
    show_default=True,
    help="f32, f16, bf16, auto (the checkpoint's own 16-bit type), or any level, such as Q8_0 or Q4_K_M.",
)
@click.option("--from", "source", type=click.Choice(KINDS), help="What SRC is, where its look deceives.")
@click.option("--to", "target", type=click.Choice(KINDS), help="What DST becomes: gguf if its name ends so, else hf.")
@click.option("--pre", metavar="NAME", help="llama.cpp's name of the pre-tokenizer, when it is not recognized.")
@plan_options
@write_options
def command(
    src: Path,
    dst: Path,
    outtype: str,
    source: str | None,
    target: str | None,
    pre: str | None,
    **options: Any,
) -> None:
    """Convert SRC, a Hugging Face folder or a GGUF file, to DST, the other kind.

    A level as --outtype goes straight to the quantized file, with no float file between.

    \b
    Example: convert Meta-Llama-3-8B-Instruct llama3-f16.gguf --outtype f16
             convert Meta-Llama-3-8B-Instruct llama3.Q4_K_M.gguf --outtype Q4_K_M
             convert llama3.Q4_K_M.gguf llama3-hf/
    """
    source, target = source or source_kind(src), target or target_kind(dst)
    model = read_model(src, kind=source, pre=pre)
    if target == "hf":
        _to_checkpoint(model, dst, outtype, options)
    else:
        _to_gguf(model, dst, outtype, options, from_checkpoint=source == "hf")


def _to_gguf(model: Model, dst: Path, outtype: str, options: dict[str, Any], from_checkpoint: bool) -> None:
    from .planned import carry_out, plan_from, print_plan

    if outtype == "auto" and not from_checkpoint:
        _rewrite(model, dst, options)
        return
    plan, importance = plan_from(model, outtype, options, from_checkpoint=from_checkpoint)
    if options["dry_run"]:
        print_plan(plan, options["as_json"])
    else:
        carry_out(plan, dst, importance, options)


def _rewrite(model: Model, dst: Path, options: dict[str, Any]) -> None:
    """GGUF to GGUF with its tensors as they are: another version or byte order of the file."""
    from ..formats.gguf.writer import write_gguf

    write_gguf(
        dst,
        model,
        version=options["version"],
        byteorder="big" if options["big_endian"] else "little",
        force=options["force"],
    )


def _to_checkpoint(model: Model, dst: Path, outtype: str, options: dict[str, Any]) -> None:
    from tqdm import tqdm

    from ..formats.hf.save import write_hf
    from ..formats.output import atomic_folder, human_bytes
    from ..quantize.decode import as_float

    dtype = outtype if outtype == "auto" else outtype.upper()
    if dtype not in ("auto", *_FLOATS):
        raise PlanError(f"a checkpoint cannot hold {outtype}", hint=f"--outtype auto, {', '.join(_FLOATS)}")
    model = as_float(model)
    n_bytes = sum(tensor.nbytes for tensor in model)
    if options["dry_run"]:
        click.echo(f"{dst}: {len(model.tensors)} tensors, {human_bytes(n_bytes)} as they decode")
        return
    with (
        atomic_folder(dst, options["force"], inputs=[model.path]) as folder,
        tqdm(
            total=n_bytes, unit="B", unit_scale=True, desc=dst.name, file=sys.stderr, disable=options["quiet"] or None
        ) as bar,
    ):
        write_hf(_watched(model, bar.update), folder, dtype=dtype)
    if not options["quiet"]:
        click.echo(f"{dst}: {len(model.tensors)} tensors")


def _watched(model: Model, progress: Callable[[int], object]) -> Model:
    """The model, telling ``progress`` the bytes of the rows that are read from it."""

    def watch(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            rows = tensor.read(a, b)
            progress(rows.nbytes)
            return rows

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(watch(tensor) for tensor in model))
