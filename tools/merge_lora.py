"""``quantmill merge-lora``: merge a LoRA adapter into the model that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_line
from .terminal.options import quiet_option, write_options
from .terminal.progress import ProgressDisplay

if TYPE_CHECKING:
    from .api.options import WriteOptions


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--outtype", default=None, metavar="TYPE", help="f32, f16, bf16, or any level.  [default: BASE's own]")
@click.option("--scale", type=float, default=1.0, show_default=True, help="A factor of the whole change.")
@write_options
@quiet_option
def command(
    base: Path, adapter: Path, out: Path, outtype: str | None, scale: float, write: WriteOptions, quiet: bool
) -> None:
    """Merge ADAPTER, a LoRA's folder as PEFT writes it or its GGUF file, into BASE, and write OUT: a GGUF file, or a
    Hugging Face folder.

    Weights are read, changed and written a few rows at a time. BASE is a folder, or a GGUF file of floats.

    \b
    Example: quantmill merge-lora Meta-Llama-3-8B-Instruct my-lora merged.Q4_K_M.gguf --outtype Q4_K_M
             quantmill merge-lora Meta-Llama-3-8B-Instruct my-lora merged-hf
             quantmill merge-lora llama3-f16.gguf my-lora.gguf merged-f16.gguf
    """
    from ..formats.storage.output import human_bytes
    from .api.convert import convert
    from .api.merging import merge_lora
    from .api.options import ReadOptions

    with ProgressDisplay(quiet=quiet) as progress:
        model = merge_lora(base, adapter, scale=scale, read=ReadOptions(), progress=progress)
        done = convert(model, out, outtype or "auto", write=write, progress=progress)
    if not quiet:
        print_line(f"{done.paths[0]}: {len(model.tensors)} tensors, {human_bytes(done.size)}")
