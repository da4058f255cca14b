"""``convert``: a Hugging Face checkpoint, a GGUF or a GGML file to another of these, quantized in one pass if asked."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..formats.errors import PlanError
from .library.models import ADAPTER, KINDS, read_model, source_kind, target_kind
from .terminal.options import cluster_options, plan_options, speaker, write_options
from .terminal.progress import ProgressDisplay

if TYPE_CHECKING:
    from ..formats.ggml.reader import GGMLSettings
    from ..formats.gguf.wire import ByteOrder
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
@click.option(
    "--to",
    "target",
    type=click.Choice(KINDS),
    help="What DST becomes: gguf if its name ends so, ggml (version 3) if in .bin, else hf.",
)
@click.option("--pre", metavar="NAME", help="llama.cpp's name of the pre-tokenizer, when it is not recognized.")
@click.option("--gqa", type=click.IntRange(min=1), help="GGML: query heads a key/value head; else the shapes say.")
@click.option("--eps", type=float, help="GGML: epsilon of the norms, which the file does not store.")
@click.option("--rope-base", type=float, help="GGML: base of the rotary frequencies, likewise.")
@click.option("--context", type=click.IntRange(min=1), help="GGML: the trained context length, likewise.")
@click.option(
    "--vocab-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="GGML: take the tokenizer of this Hugging Face folder, not the file's.",
)
@click.option(
    "-f",
    "--file",
    "text",
    type=click.Path(path_type=Path),
    help="With --refine and no --imatrix: run this text through SRC first. What that leaves is not kept.",
)
@click.option("--base", type=click.Path(path_type=Path), metavar="FOLDER", help="LoRA: the base model's folder.")
@plan_options
@write_options
@cluster_options
def command(
    src: Path,
    dst: Path,
    outtype: str,
    source: str | None,
    target: str | None,
    pre: str | None,
    **options: Any,
) -> None:
    """Convert SRC, a Hugging Face folder, a GGUF or a GGML file, to DST, another of these kinds; or a LoRA adapter's
    folder, as PEFT writes it, to a GGUF adapter.

    A level as --outtype goes straight to the quantized file, with no float file between.

    A GPTQ, AWQ, FP8 or compressed-tensors checkpoint keeps, without a level, every block that GGUF can hold exactly;
    the rest becomes the checkpoint's 16-bit type. With a level all of it is decoded and quantized again.

    \b
    Example: convert Meta-Llama-3-8B-Instruct llama3-f16.gguf --outtype f16
             convert Meta-Llama-3-8B-Instruct llama3.Q4_K_M.gguf --outtype Q4_K_M
             convert llama3.Q4_K_M.gguf llama3-hf/
             convert llama-2-13b.ggmlv3.q4_K_M.bin llama-2-13b.Q4_K_M.gguf --eps 1e-5 --context 4096
             convert Meta-Llama-3-8B-Instruct llama3.Q3_K_M.gguf --outtype Q3_K_M --refine -f text.txt
             convert my-lora my-lora.gguf --base Meta-Llama-3-8B-Instruct
    """
    source, target = source or source_kind(src), target or target_kind(dst)
    base, text = options.pop("base"), options.pop("text")
    if source == ADAPTER:
        _settings(options, source)
        _adapter(src, dst, base, outtype, options)
        return
    if base is not None:
        raise PlanError("speaks of LoRA adapters; SRC is none", where="--base")
    model = read_model(src, kind=source, pre=pre, settings=_settings(options, source), quiet=options["quiet"])
    if target == "hf":
        _to_checkpoint(model, dst, outtype, options)
    else:
        with _calibrated(src, dst, text, options):
            _to_file(model, dst, outtype, options, container=target)


@contextmanager
def _calibrated(src: Path, dst: Path, text: Path | None, options: dict[str, Any]) -> Iterator[None]:
    """While inside, ``options`` have an importance matrix made of the text, if one is given. It lies beside the output
    until that is whole, so that a run that is cut off need not make it again."""
    if text is None:
        yield
        return
    if not options["refine"] or options["imatrix"] or options["dry_run"]:
        raise click.UsageError("-f goes with --refine, without --imatrix and --dry-run")
    from ..formats.storage.source import file_stamps
    from .imatrix import command as collect

    digest = hashlib.sha256(file_stamps([src]).encode("utf-8", "surrogateescape") + str(text).encode()).hexdigest()
    path = dst.with_name(f".{dst.name}.{digest[:8]}.imatrix.gguf")
    if not path.exists():
        words = ["-m", str(src), "-f", str(text), "-o", str(path), "--second-moments", "--no-ppl"]
        collect.main(words + ["--quiet"] * bool(options["quiet"]), prog_name="convert", standalone_mode=False)
    options |= {"imatrix": path, "imatrix_name": text.name}
    yield
    path.unlink()


def _settings(options: dict[str, Any], source: str) -> GGMLSettings:
    """What GGML files do not store, taken out of the options."""
    from ..formats.ggml.reader import GGMLSettings

    given = {key: options.pop(key) for key in ("gqa", "eps", "rope_base", "context", "vocab_dir")}
    for key, value in given.items():
        if value is not None and source != "ggml":
            raise PlanError("speaks of GGML files; SRC is none", where=f"--{key.replace('_', '-')}")
    return GGMLSettings(**given)


def _adapter(src: Path, dst: Path, base: Path | None, outtype: str, options: dict[str, Any]) -> None:
    from ..formats.hf.lora import read_lora
    from ..formats.qtypes import BY_NAME

    dtype = "F32" if outtype == "auto" else outtype.upper()
    if dtype not in _FLOATS:
        raise PlanError(f"an adapter cannot be {outtype}", hint=f"--outtype auto, {', '.join(_FLOATS)}")
    model = read_lora(src, base, BY_NAME[dtype])
    _rewrite(model, dst, options, "gguf")
    if not (options["quiet"] or options["dry_run"]):
        click.echo(f"{dst}: an adapter of {len(model.tensors) // 2} weights of a {model.arch}")


def _to_file(model: Model, dst: Path, outtype: str, options: dict[str, Any], container: str) -> None:
    from .library.planned import carry_out, plan_from, print_plan, tell_client

    if outtype == "auto" and container == "ggml" and model.from_checkpoint:
        outtype = "F16"  # the one 16-bit type that GGML has
    if outtype == "auto" and not model.from_checkpoint:
        _rewrite(model, dst, options, container)
        metadata = model.metadata
    else:
        plan, importance = plan_from(model, outtype, options, container=container)
        if options["dry_run"]:
            print_plan(plan, options["as_json"])
        else:
            carry_out(plan, dst, importance, options)
        metadata = plan.metadata
    if container == "ggml" and not (options["quiet"] or options["dry_run"]):
        tell_client(metadata, dst)


def _rewrite(model: Model, dst: Path, options: dict[str, Any], container: str) -> None:
    """File to file with its tensors as they are: another container, version or byte order."""
    _alone(options)
    if options["dry_run"]:
        click.echo(f"{dst}: {len(model.tensors)} tensors as they are")
        return
    from ..formats.ggml.writer import write_ggml
    from ..formats.gguf.writer import write_gguf

    force, restart = options["force"], options["restart"]
    with ProgressDisplay(quiet=options["quiet"]) as progress:
        if container == "gguf":
            order: ByteOrder = "big" if options["big_endian"] else "little"
            version = options["version"]
            write_gguf(dst, model, version=version, byteorder=order, force=force, restart=restart, progress=progress)
        elif options["big_endian"]:
            raise PlanError("a GGML file is little-endian", where="--big-endian", hint="leave it out")
        else:
            write_ggml(dst, model, force=force, restart=restart, progress=progress)


def _how(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options, what every writer takes."""
    return {"force": options["force"], "restart": options["restart"], "say": speaker(options["quiet"])}


def _to_checkpoint(model: Model, dst: Path, outtype: str, options: dict[str, Any]) -> None:
    from tqdm import tqdm

    from ..formats.hf.save import write_hf
    from ..formats.storage.folder import resumable_folder
    from ..formats.storage.output import human_bytes
    from ..quantize.decode import as_float

    _alone(options)
    dtype = outtype if outtype == "auto" else outtype.upper()
    if dtype not in ("auto", *_FLOATS):
        raise PlanError(f"a checkpoint cannot hold {outtype}", hint=f"--outtype auto, {', '.join(_FLOATS)}")
    model = as_float(model)
    n_bytes = sum(tensor.nbytes for tensor in model)
    if options["dry_run"]:
        click.echo(f"{dst}: {len(model.tensors)} tensors, {human_bytes(n_bytes)} as they decode")
        return
    with (
        resumable_folder(dst, _digest(model, dtype), inputs=[model.path], **_how(options)) as folder,
        tqdm(
            total=n_bytes, unit="B", unit_scale=True, desc=dst.name, file=sys.stderr, disable=options["quiet"] or None
        ) as bar,
    ):
        write_hf(_watched(model, bar.update), folder, dtype=dtype)
    if not options["quiet"]:
        click.echo(f"{dst}: {len(model.tensors)} tensors")


def _alone(options: Mapping[str, Any]) -> None:
    if options["cluster"] is not None:
        raise PlanError("takes part where a GGUF file is written at a type of your choice", where="--cluster")


def _digest(model: Model, dtype: str) -> str:
    """Of everything that the checkpoint's files depend on."""
    from ..formats.gguf.wire import encode_value
    from ..formats.storage.source import file_stamps
    from ..quantize.kernels.cachedir import sources_digest

    digest = hashlib.sha256(f"{__version__} {sources_digest()} {dtype}\n".encode())
    for key, value in model.metadata.items():
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0" + encode_value(value))
    for tensor in model:
        digest.update(f"{tensor.name} {tensor.qtype} {tensor.shape}\n".encode("utf-8", "surrogateescape"))
    digest.update(file_stamps(model.paths).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _watched(model: Model, progress: Callable[[int], object]) -> Model:
    """The model, telling ``progress`` the bytes of the rows that are read from it."""

    def watch(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            rows = tensor.read(a, b)
            progress(rows.nbytes)
            return rows

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(watch(tensor) for tensor in model))
