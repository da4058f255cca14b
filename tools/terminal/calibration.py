"""The options that ``gptq`` and ``awq`` share, and how their result is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...formats.storage.output import human_bytes
from .lines import print_json, print_line
from .running import device_option

if TYPE_CHECKING:
    from ..api.blockwise import QuantizedCheckpoint

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "-f", "--file", "text", type=click.Path(path_type=Path),
        help="The text.  [default: the one that ships with quantmill]",
    ),
    click.option(
        "-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2),
        help="Tokens in a chunk.  [default: 2048, or the model's]",
    ),
    click.option(
        "--chunks", type=click.IntRange(min=-1),
        help="Use at most so many chunks; -1: all.  [default: as many as make 128 x 2048 tokens, or 65,536 of the text "
        "that ships]",
    ),
    click.option("--from-chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use."),
    click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks computed together; 0 chooses."),
    click.option("--parse-special", is_flag=True, help="Read control tokens in the text as tokens, not as letters."),
    device_option,
    click.option(
        "--max-shard-size", type=float, default=5.0, show_default=True, metavar="GB",
        help="The most that a file of the output may take.",
    ),
    click.option(
        "--save-every", type=click.IntRange(min=0), default=4, show_default=True,
        help="Save the state every so many layers; 0 for never.",
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU."),
    click.option("--force", is_flag=True, help="Replace OUT_DIR if it holds a checkpoint."),
    click.option("--quiet", is_flag=True, help="Do not show progress and reports."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary, with every layer's loss, as JSON."),
)  # fmt: skip


def calibration_options(command: F) -> F:
    """Add the options of the text, of how it is cut, and of the output."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def print_result(
    model: Path, made: QuantizedCheckpoint[Any], settings: Mapping[str, object], as_json: bool, quiet: bool
) -> None:
    """Print what was made: as JSON on stdout, or a line on stderr.

    Args:
        settings: of the method, for the JSON.
    """
    if as_json:
        summary = {
            "model": str(model),
            "output": str(made.output),
            **settings,
            "text": made.text,
            "chunks": made.n_chunks,
            "ctx_size": made.n_ctx,
            "seconds": made.seconds,
            "bytes": made.nbytes,
            "rounded_to_nearest": [report.name for report in made.linears if not report.by_text],
            "linears": [asdict(report) for report in made.linears],
        }
        print_json(summary)
    elif not quiet:
        size = human_bytes(made.nbytes)
        print_line(f"{made.output}: {len(made.linears)} linears, {size}, {made.seconds:.1f} s", err=True)
        if few := sum(not report.by_text for report in made.linears):
            print_line(f"{few} of them saw too few tokens and were rounded to nearest (--json names them)", err=True)
