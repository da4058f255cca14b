"""``quantmill compress``: round a checkpoint to a scheme of compressed-tensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from ..formats.storage.output import human_bytes
from .terminal.calibration import calibration_options
from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option(
    "--scheme", default="fp8", show_default=True,
    help="fp8, fp8-tensor, fp8-block, w8a8, w4a16, w4a16-asym, w8a16, nvfp4, nvfp4a16, mxfp4 or mxfp4a16.",
)  # fmt: skip
@click.option(
    "--group-size", type=int,
    help="How many weights share a scale in w4a16 and w8a16: 32, 64, 128, or -1 for a row.  [default: 128]",
)  # fmt: skip
@click.option(
    "--observer", type=click.Choice(["minmax", "mse"]), default="minmax", show_default=True,
    help="What finds scales: the least and greatest weight, or a search for less error.",
)  # fmt: skip
@click.option(
    "--ignore", multiple=True, metavar="NAME",
    help="A module to leave as it is, or re: and a pattern; repeatable. The head, routers, towers and layers for "
    "further tokens are left in any case.",
)  # fmt: skip
@calibration_options
def command(
    model: Path, output: Path, scheme: str, group_size: int | None, observer: Literal["minmax", "mse"],
    ignore: tuple[str, ...], text: Path | None,
    n_ctx: int | None, chunks: int | None, from_chunk: int, batch: int, parse_special: bool, device: str,
    max_shard_size: float, save_every: int, threads: int | None, force: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Round the linear layers of MODEL_DIR to a scheme of compressed-tensors, which vLLM and transformers load.

    Weights are rounded to nearest, to the bytes of llm-compressor. The options of the text are for nvfp4, whose
    activations have a scale of their own; no other scheme needs a text. A run that was interrupted is resumed by the
    same command.

    \b
    Example: quantmill compress Llama-3.1-8B Llama-3.1-8B-FP8
             quantmill compress Qwen3-30B-A3B Qwen3-30B-A3B-NVFP4 --scheme nvfp4 -f calibration.txt --chunks 32
             quantmill compress Llama-3.1-8B Llama-3.1-8B-W4A16 --scheme w4a16 --group-size 32 --ignore "re:.*down_proj"
    """
    from .api.blockwise import CheckpointOptions
    from .api.compress import compress
    from .api.running import RunOptions

    run = RunOptions(
        n_ctx=n_ctx, chunks=chunks, first_chunk=from_chunk, batch=batch, parse_special=parse_special, device=device
    )
    with ProgressDisplay(quiet=quiet) as progress:
        made = compress(
            model, output, scheme=scheme, group_size=group_size, observer=observer, ignore=ignore,
            text=text, run=run,
            checkpoint=CheckpointOptions(max_shard_size * 1e9, save_every, threads, force), progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"model": str(model), **asdict(made), "output": str(made.output)})
    elif not quiet:
        size = human_bytes(made.nbytes)
        print_line(f"{made.output}: {len(made.layers)} layers in {made.scheme}, {size}, {made.seconds:.1f} s", err=True)
