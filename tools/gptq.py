"""``quantmill gptq``: quantize a checkpoint by GPTQ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from ..quantize.linears import MIN_TOKENS
from .terminal.calibration import calibration_options, print_result
from .terminal.progress import ProgressDisplay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("--bits", type=int, default=4, show_default=True, help="Bits of a weight: 2, 3, 4 or 8.")
@click.option(
    "--group-size", type=int, default=128, show_default=True, help="How many weights share a scale; -1: all of a row."
)
@click.option(
    "--desc-act/--no-desc-act",
    help="Make groups of inputs with similar activations: better, slower to run.  [default: no]",
)
@click.option("--static-groups", is_flag=True, help="Take scales from the original weights, whatever the order.")
@click.option("--sym/--asym", default=True, show_default=True, help="The zero point is the middle code, or any code.")
@click.option(
    "--damp", type=float, default=0.01, show_default=True,
    help="What is added to the Hessian's diagonal, as a part of its mean.",
)  # fmt: skip
@click.option(
    "--format", "--checkpoint-format", "checkpoint_format", default="gptq", show_default=True,
    type=click.Choice(["gptq", "gptq_v2", "compressed-tensors"]),
    help="GPTQ's own, whose zero points are stored less one or (v2) as they are, or llm-compressor's.",
)  # fmt: skip
@click.option(
    "--min-tokens", type=int, default=MIN_TOKENS, show_default=True, metavar="N",
    help="Round an expert to nearest that saw fewer tokens of the text.",
)  # fmt: skip
@calibration_options
def command(
    model: Path, output: Path, bits: int, group_size: int, desc_act: bool, static_groups: bool, sym: bool, damp: float,
    checkpoint_format: Literal["gptq", "gptq_v2", "compressed-tensors"], text: Path | None, n_ctx: int | None,
    chunks: int | None, from_chunk: int, batch: int, min_tokens: int, parse_special: bool, device: str,
    max_shard_size: float, save_every: int, threads: int | None, force: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Quantize the linear layers of MODEL_DIR by GPTQ, by what a text makes of their inputs.

    One decoder layer is in memory at a time. A run that was interrupted is resumed by the same command.

    \b
    Example: quantmill gptq Llama-2-13b Llama-2-13b-GPTQ --bits 4 --group-size 128 -f calibration.txt
             quantmill gptq Llama-2-13b Llama-2-13b-GPTQ-8bit --bits 8 --group-size 32 --desc-act
             quantmill gptq Qwen3-30B-A3B Qwen3-30B-A3B-W4A16 --format compressed-tensors --static-groups
    """
    from ..quantize.gptq.settings import GPTQSettings
    from .api.blockwise import CheckpointOptions
    from .api.gptq import gptq
    from .api.running import RunOptions

    settings = GPTQSettings(bits, group_size, desc_act, static_groups, sym, damp, min_tokens=min_tokens)
    run = RunOptions(
        n_ctx=n_ctx, chunks=chunks, first_chunk=from_chunk, batch=batch, parse_special=parse_special, device=device
    )
    with ProgressDisplay(quiet=quiet) as progress:
        made = gptq(
            model, output, settings=settings, checkpoint_format=checkpoint_format, text=text, run=run,
            checkpoint=CheckpointOptions(max_shard_size * 1e9, save_every, threads, force), progress=progress,
        )  # fmt: skip
    print_result(model, made, {**asdict(settings), "checkpoint_format": checkpoint_format}, as_json, quiet)
