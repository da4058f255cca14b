"""``convert``: convert a model of any kind to another kind, quantized in one pass if asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.options import (
    KINDS,
    cluster_from,
    cluster_options,
    imatrix_options,
    mmproj_options,
    print_options,
    quiet_option,
    read_options,
    write_options,
)
from .terminal.plan_options import plan_options, split_options
from .terminal.progress import ProgressDisplay

if TYPE_CHECKING:
    from ..quantize.plan import PlanOptions
    from .api.conversion import Conversion
    from .api.options import Kind, MmprojOptions, ReadOptions, SplitOptions, WriteOptions


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--outtype",
    default="auto",
    show_default=True,
    help="f32, f16, bf16, auto (the checkpoint's own 16-bit type), or any level, such as Q8_0 or Q4_K_M.",
)
@click.option(
    "--to",
    "kind",
    type=click.Choice((*KINDS, "safetensors")),
    help="What to write.  [default: by DST's ending: gguf for .gguf, ggml (version 3) for .bin, safetensors (of an "
    "image model) for .safetensors, else hf, a folder]",
)
@click.option(
    "--fp8-as-q8",
    is_flag=True,
    help="At a float type: weights that the checkpoint holds in FP8 become Q8_0, as with convert_hf_to_gguf.py.",
)
@read_options
@imatrix_options
@plan_options
@print_options
@write_options
@split_options
@mmproj_options
@quiet_option
@cluster_options
def command(
    src: Path,
    dst: Path,
    outtype: str,
    kind: Kind | None,
    fp8_as_q8: bool,
    read: ReadOptions,
    imatrix: Path | None,
    refine: bool,
    refine_width: int | None,
    text: Path | None,
    n_ctx: int | None,
    chunks: int | None,
    options: PlanOptions,
    dry_run: bool,
    as_json: bool,
    write: WriteOptions,
    split: SplitOptions,
    mmproj: MmprojOptions | None,
    quiet: bool,
    cluster: str | None,
    workers: int | None,
) -> None:
    """Convert SRC, a Hugging Face folder, a GGUF or a GGML file, to DST, another of these kinds; or a LoRA adapter's
    folder, as PEFT writes it, to a GGUF adapter; or a model that makes images or videos, a safetensors file or a folder
    of diffusers, to the GGUF file that ComfyUI-GGUF and diffusers load, and back.

    With a level as --outtype, the quantized file is written directly, without a float file between.

    A GPTQ, AWQ, FP8 or compressed-tensors checkpoint keeps, without a level, every block that GGUF can hold exactly;
    the rest becomes the checkpoint's 16-bit type. With a level, all of it is decoded and quantized again.

    \b
    Example: convert Meta-Llama-3-8B-Instruct llama3-f16.gguf --outtype f16
             convert Meta-Llama-3-8B-Instruct llama3.Q4_K_M.gguf --outtype Q4_K_M
             convert llama3.Q4_K_M.gguf llama3-hf/
             convert llama3.Q4_K_M.gguf llama3-f16.gguf --outtype f16
             convert llama-2-13b.ggmlv3.q4_K_M.bin llama-2-13b.Q4_K_M.gguf --eps 1e-5 --context 4096
             convert Meta-Llama-3-8B-Instruct llama3.Q3_K_M.gguf --outtype Q3_K_M --refine -f text.txt
             convert gemma-3-4b-it gemma3.gguf --mmproj
             convert gemma3.gguf gemma3-hf/ --mmproj mmproj-gemma-3-4b-it-F16.gguf
             convert my-lora my-lora.gguf --base Meta-Llama-3-8B-Instruct
             convert flux1-dev.safetensors flux1-dev-Q4_K_S.gguf --outtype Q4_K_S
    """
    from .api.convert import convert
    from .api.running import RunOptions

    with ProgressDisplay(quiet=quiet) as progress:
        done = convert(
            src,
            dst,
            outtype,
            imatrix=imatrix,
            refine=refine,
            refine_width=refine_width,
            text=text,
            run=RunOptions(n_ctx, chunks),
            options=replace(options, fp8_as_q8=fp8_as_q8),
            kind=kind,
            read=read,
            write=write,
            split=split,
            mmproj=mmproj,
            cluster=cluster_from(cluster, workers),
            dry_run=dry_run,
            progress=progress,
        )
    if done.plan is not None:
        from .terminal.plans import print_conversion

        print_conversion(done, as_json=as_json, quiet=quiet)
    else:
        _print(done, as_json, quiet)


def _print(done: Conversion, as_json: bool, quiet: bool) -> None:
    """Print what became of a model whose tensors were written without a plan."""
    from ..formats.storage.output import human_bytes

    n = len(done.model.tensors)
    if as_json:
        made = {"source": str(done.model.path), "output": str(done.paths[0]), "kind": done.kind, "tensors": n}
        print_json({**made, "size": done.size, "seconds": round(done.seconds, 3)})
        return
    how = f"{human_bytes(done.size)} as they decode" if done.kind in ("hf", "safetensors") else "as they are"
    if not done.written:
        print_line(f"{done.paths[0]}: {n} tensors, {how}")
    elif quiet:
        return
    elif done.model.get("general.type") == "adapter":
        weights = f"{n // 2} weights" if n > 2 else "1 weight"
        print_line(f"{done.paths[0]}: an adapter of {weights} of a {done.model.arch}")
    elif done.kind in ("hf", "safetensors"):
        print_line(f"{done.paths[0]}: {n} tensors")
