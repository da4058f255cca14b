"""The options of commands that plan a quantized file: which type each tensor becomes, and which keys the file has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ..api.options import SplitOptions
from .options import Group, gather, recipe_set_option
from .units import Size

if TYPE_CHECKING:
    from ...formats.ir import Value
    from ..api.planning import PlanOptions, TypeRule

Rules: TypeAlias = "tuple[tuple[str, str] | TypeRule, ...]"
_RULES = "quantmill.rules"  # of all options, in the order in which they stand on the command line


def _plan_options(
    recipe_set: str | None,
    pure: bool,
    leave_output: bool,
    output_type: str | None,
    embedding_type: str | None,
    tensor_types: object,
    tensor_type_files: object,
    allow_requantize: bool,
    fallback_type: str | None,
    no_fallback: bool,
    include_weights: tuple[str, ...],
    exclude_weights: tuple[str, ...],
    no_imatrix_metadata: bool,
    overrides: dict[str, Value],
    prune_layers: tuple[int, ...],
) -> PlanOptions:
    from ..api.planning import PlanOptions

    return PlanOptions(
        recipe_set=recipe_set,
        pure=pure,
        leave_output=leave_output,
        output_type=output_type,
        embedding_type=embedding_type,
        tensor_types=tuple(_rules(click.get_current_context())),
        allow_requantize=allow_requantize,
        fallback_type=fallback_type,
        no_fallback=no_fallback,
        include_weights=include_weights,
        exclude_weights=exclude_weights,
        imatrix_metadata=not no_imatrix_metadata,
        overrides=overrides,
        prune_layers=prune_layers,
    )


def _split_options(
    split_max_size: int | None, split_max_tensors: int | None, no_tensor_first_split: bool, partial: bool
) -> SplitOptions:
    return SplitOptions(False, split_max_size, split_max_tensors, no_tensor_first_split, partial)


def _rules(ctx: click.Context) -> list[tuple[str, str] | TypeRule]:
    rules: list[tuple[str, str] | TypeRule] = ctx.meta.setdefault(_RULES, [])
    return rules


def _tensor_types(tensor_types: object, tensor_type_files: object) -> Rules:
    return tuple(_rules(click.get_current_context()))


def _pattern_and_type(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> None:
    for text in given:
        pattern, equals, type = text.rpartition("=")
        if not (pattern and equals and type):
            raise click.BadParameter(f"{text!r} is not PATTERN=TYPE, such as attn_v=Q8_0")
        _rules(ctx).append((pattern, type))


def _recipe_files(ctx: click.Context, param: click.Parameter, given: tuple[Path, ...]) -> None:
    for path in given:
        from ..api.recipe_files import read_recipe

        _rules(ctx).extend(read_recipe(path))


def _overrides(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Value]:
    if not given:
        return {}
    from ...formats.gguf.overrides import parse_overrides

    return parse_overrides(given)


def _layers(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[int, ...]:
    if given is None:
        return ()
    from ..api.planning import parse_layers

    return parse_layers(given)


_TENSOR_TYPES = (
    click.option(
        "--tensor-type",
        "tensor_types",
        metavar="PATTERN=TYPE",
        multiple=True,
        callback=_pattern_and_type,
        help="The type of tensors whose name has a match of this regular expression. Repeatable; the first wins.",
    ),
    click.option(
        "--tensor-type-file",
        "tensor_type_files",
        metavar="FILE",
        multiple=True,
        type=click.Path(path_type=Path),
        callback=_recipe_files,
        help="The same from a file, one PATTERN=TYPE after the other, # before a comment: a recipe, as inspect "
        "--recipe prints one. Of this option and --tensor-type the one that comes first wins.",
    ),
)

# One argument of rules, in the order in which they stand on the command line.
tensor_type_options: Group[Any] = gather("tensor_types", _tensor_types, *_TENSOR_TYPES)

split_options: Group[Any] = gather(
    "split",
    _split_options,
    click.option(
        "--split-max-size", type=Size(), metavar="SIZE",
        help="Write shards of at most so many bytes of tensors: 2G, 500M (decimal), 1.5GiB; the output's name without "
        ".gguf is what theirs begin with.",
    ),
    click.option(
        "--split-max-tensors", type=click.IntRange(min=1), metavar="N", help="Write shards of at most so many tensors."
    ),
    click.option("--no-tensor-first-split", is_flag=True, help="Let the first shard hold metadata only."),
    click.option("--partial", is_flag=True, help="Write only the shards that are missing of the set."),
)  # fmt: skip

plan_options: Group[Any] = gather(
    "options",
    _plan_options,
    recipe_set_option,
    click.option("--pure", is_flag=True, help="Give every tensor the level's default type."),
    click.option("--leave-output-tensor", "leave_output", is_flag=True, help="Leave output.weight as it is."),
    click.option("--output-tensor-type", "output_type", metavar="TYPE", help="The type of output.weight."),
    click.option("--token-embedding-type", "embedding_type", metavar="TYPE", help="The type of the token embeddings."),
    *_TENSOR_TYPES,
    click.option("--allow-requantize", is_flag=True, help="Quantize again what is quantized. It loses quality."),
    click.option(
        "--fallback-type", metavar="TYPE", help="For tensors that lack the importance they need, or fit no type."
    ),
    click.option("--no-fallback", is_flag=True, help="Stop at a tensor whose width does not fit its type."),
    click.option(
        "--include-weights", metavar="TEXT", multiple=True,
        help="Use importance for tensors with this in their name alone. Repeatable.",
    ),
    click.option(
        "--exclude-weights", metavar="TEXT", multiple=True,
        help="Use no importance for tensors with this in their name. Repeatable.",
    ),
    click.option(
        "--no-imatrix-metadata", is_flag=True, help="Do not note in the file which importance matrix it was made with."
    ),
    click.option(
        "--override-kv", "overrides", metavar="KEY=TYPE:VALUE", multiple=True, callback=_overrides,
        help="Set a metadata key of the output; TYPE is int, float, bool or str. Repeatable.",
    ),
    click.option(
        "--prune-layers", metavar="N,N-N", callback=_layers,
        help="Leave these blocks out and number the others anew, such as 3,7-9.",
    ),
)  # fmt: skip
