"""The options of a text that runs through models, as ``evaluate`` and ``compare`` take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ..api.running import RunOptions

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option(
    "--device", default="cpu", show_default=True,
    help="Where torch computes: cpu, cuda, cuda:1, mps, xpu; auto: the accelerator, if there is one.",
)  # fmt: skip
_OPTIONS = (
    click.option(
        "-f", "--file", "text", type=click.Path(path_type=Path),
        help="The text.  [default: the one that ships with quantmill]",
    ),
    click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True),
    click.option(
        "--chunks", type=click.IntRange(min=-1),
        help="Use at most so many chunks; -1 for all.  [default: all, or 65,536 tokens of the text that ships]",
    ),
    click.option("--from-chunk", "first_chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use."),
    click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks computed together; 0 chooses."),
    click.option("--parse-special", is_flag=True, help="Read control tokens in the text as tokens, not as letters."),
    click.option(
        "--dtype", type=click.Choice(["f32", "bf16", "auto"]), default="f32", show_default=True,
        help="The type of the arithmetic; auto: bf16 where there are units for it.",
    ),
    device_option,
)  # fmt: skip
_RUN = ("n_ctx", "chunks", "first_chunk", "batch", "parse_special", "dtype", "device")


def judged_text_options(command: F) -> F:
    """Add ``-f`` as ``text``, and what becomes ``run``, a ``RunOptions``."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        run = RunOptions(**{name: given.pop(name) for name in _RUN})
        return command(**given, run=run)

    made = cast(F, gathered)
    for option in reversed(_OPTIONS):
        made = option(made)
    return made
