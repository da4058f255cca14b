"""The options that ``quantize`` and ``convert`` share, as decorators; ``planned.py`` understands what they collect."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...formats.errors import PlanError
from .units import Size

if TYPE_CHECKING:
    from ..library.ray_pool import ClusterOptions

F = TypeVar("F", bound=Callable[..., Any])

RECIPE_SETS = ("current", "2023-12", "ggml-v3")  # those of quantize/recipes.py, which --help need not import


class RecipeSetOption(click.Option):
    """``--recipe-set``. Its former name ``--book`` still works, but is not shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(", --book", ""), record[1])


recipe_set_option = click.option(
    "--recipe-set", "--book", "recipe_set", cls=RecipeSetOption, type=click.Choice(RECIPE_SETS),
    help="The recipes of which time.  [default: current; ggml-v3 for a GGML file]",
)  # fmt: skip
restart_option = click.option("--restart", is_flag=True, help="Begin anew where an unfinished run could be taken up.")


def speaker(quiet: bool) -> Callable[[str], object] | None:
    """What is said on the way goes to stderr, or nowhere."""
    return None if quiet else partial(click.echo, err=True)


_PLAN_OPTIONS = (
    click.option(
        "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Importance matrix, .gguf or .dat."
    ),
    click.option(
        "--refine", is_flag=True,
        help="Let later weights repair the errors of earlier ones; wants an --imatrix with --second-moments.",
    ),
    click.option(
        "--refine-width", type=click.IntRange(min=256), default=256, show_default=True, metavar="N",
        help="Columns that repair each other, at most, in whole 256s: quality, time and memory grow with it.",
    ),
    recipe_set_option,
    click.option("--pure", is_flag=True, help="The level's default type for every tensor, no mix."),
    click.option("--leave-output-tensor", "leave_output", is_flag=True, help="Leave output.weight as it is."),
    click.option("--output-tensor-type", "output_type", metavar="TYPE", help="The type of output.weight."),
    click.option("--token-embedding-type", "embedding_type", metavar="TYPE", help="The type of the token embeddings."),
    click.option(
        "--tensor-type",
        "tensor_types",
        metavar="PATTERN=TYPE",
        multiple=True,
        callback=lambda ctx, param, values: tuple(_pair(value) for value in values),
        help="The type of tensors whose name has a match of this regular expression. Repeatable; the first wins.",
    ),
    click.option("--allow-requantize", is_flag=True, help="Quantize what is quantized already. It loses quality."),
    click.option(
        "--fallback-type", metavar="TYPE", help="For tensors that lack the importance they need, or fit no type."
    ),
    click.option("--no-fallback", is_flag=True, help="A tensor whose width does not fit its type is an error."),
    click.option("--dry-run", is_flag=True, help="Print what would become of each tensor, and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the plan or the summary as JSON."),
)  # fmt: skip

_WRITE_OPTIONS = (
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU."),
    click.option(
        "--gguf-version", "version", type=click.IntRange(2, 3), default=2, show_default=True,
        help="Version of the GGUF file.",
    ),
    click.option("--big-endian", is_flag=True, help="Write for a big-endian machine; needs --gguf-version 3."),
    click.option("--force", is_flag=True, help="Replace the output if it exists."),
    restart_option,
    click.option("--quiet", is_flag=True, help="No progress and no summary."),
)  # fmt: skip

_CLUSTER_OPTIONS = (
    click.option(
        "--cluster", metavar="ADDRESS|local",
        help="Let a Ray cluster do the work: its head's address, or local to start one on this machine.",
    ),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Of the cluster, at most so many."),
)  # fmt: skip

_BUDGET_OPTIONS = (
    click.option(
        "--target-size", type=Size(), metavar="SIZE",
        help="Instead of a level: choose every tensor's type so that the file has this size, such as 4.5GiB.",
    ),
    click.option("--target-bpw", type=float, metavar="BITS", help="The same, in bits per weight over all tensors."),
    click.option(
        "--sensitivity-text", type=click.Path(path_type=Path), metavar="FILE",
        help="Text to measure each tensor's sensitivity on, best of the kind the model is for; its first few thousand "
        "tokens are used.  [default: one that ships with the package]",
    ),
    click.option("--typical-sensitivity", is_flag=True, help="Do not run the model: assume usual sensitivities."),
)  # fmt: skip


def cluster_from(address: str | None, workers: int | None) -> ClusterOptions | None:
    """What ``--cluster`` and ``--workers`` ask for; None without a cluster.

    Raises:
        PlanError: workers of no cluster.
    """
    from ..library.ray_pool import ClusterOptions

    if address is None:
        if workers is not None:
            raise PlanError("is for --cluster", where="--workers", hint="--threads is for this machine")
        return None
    return ClusterOptions(address, workers)


def budget_options(command: F) -> F:
    """A size instead of a level; ``budgeted.py`` understands them."""
    return _apply(_BUDGET_OPTIONS, command)


def plan_options(command: F) -> F:
    """What decides the plan."""
    return _apply(_PLAN_OPTIONS, command)


def write_options(command: F) -> F:
    """How it is carried out."""
    return _apply(_WRITE_OPTIONS, command)


def cluster_options(command: F) -> F:
    """Where it is carried out; ``cluster.py`` understands them."""
    return _apply(_CLUSTER_OPTIONS, command)


def _apply(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def _pair(text: str) -> tuple[str, str]:
    pattern, equals, type = text.rpartition("=")
    if not (pattern and equals and type):
        raise click.BadParameter(f"{text!r} is not PATTERN=TYPE, such as attn_v=Q8_0")
    return pattern, type
