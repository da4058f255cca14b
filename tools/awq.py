"""``quantmill awq``: quantize a checkpoint by AWQ, to 4 bits."""

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
@click.option(
    "--group-size", type=int, default=128, show_default=True,
    help="How many weights share a scale: 32, 64, 128, or -1 for all of a row.",
)  # fmt: skip
@click.option("--no-scales", is_flag=True, help="Do not search scales for the inputs.")
@click.option("--no-clip", is_flag=True, help="Do not search smaller ranges. With --no-scales: round to nearest.")
@click.option("--sym/--asym", default=False, show_default=True, help="The zero point is the middle code, or any code.")
@click.option(
    "--format", "checkpoint_format", type=click.Choice(["awq", "compressed-tensors"]), default="awq",
    show_default=True, help="AutoAWQ's (gemm), or llm-compressor's.",
)  # fmt: skip
@click.option(
    "--min-tokens", type=int, default=MIN_TOKENS, show_default=True, metavar="N",
    help="Round an expert to nearest that saw fewer tokens of the text.",
)  # fmt: skip
@calibration_options
def command(
    model: Path, output: Path, group_size: int, no_scales: bool, no_clip: bool, sym: bool,
    checkpoint_format: Literal["awq", "compressed-tensors"], text: Path | None, n_ctx: int | None, chunks: int | None,
    from_chunk: int, batch: int, min_tokens: int, parse_special: bool, device: str, max_shard_size: float,
    save_every: int, threads: int | None, force: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Quantize the linear layers of MODEL_DIR by AWQ: 4 bits, inputs scaled by what a text makes of them.

    One decoder layer is in memory at a time. A run that was interrupted is resumed by the same command.

    \b
    Example: quantmill awq Llama-2-13b Llama-2-13b-AWQ -f calibration.txt
             quantmill awq Qwen2.5-0.5B Qwen2.5-0.5B-AWQ --group-size 64 --chunks 64 -c 512
    """
    from ..quantize.awq.settings import AWQSettings
    from .api.awq import awq
    from .api.blockwise import CheckpointOptions
    from .api.running import RunOptions

    settings = AWQSettings(group_size, not no_scales, not no_clip, min_tokens, sym)
    run = RunOptions(
        n_ctx=n_ctx, chunks=chunks, first_chunk=from_chunk, batch=batch, parse_special=parse_special, device=device
    )
    with ProgressDisplay(quiet=quiet) as progress:
        made = awq(
            model, output, settings=settings, checkpoint_format=checkpoint_format, text=text, run=run,
            checkpoint=CheckpointOptions(max_shard_size * 1e9, save_every, threads, force), progress=progress,
        )  # fmt: skip
    print_result(model, made, {"bits": 4, **asdict(settings), "checkpoint_format": checkpoint_format}, as_json, quiet)
