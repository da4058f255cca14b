"""``quantmill diff``: what differs between two models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..formats.differences import KeyChange, TensorChange
    from ..formats.ir import Model, Tensor
    from ..quantize.compare import TensorReport

_MARKS = {"removed": "-", "added": "+"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--values", is_flag=True, help="Decode the tensors that differ, and measure by how much.")
@click.option("--no-metadata", is_flag=True, help="Compare the tensors only.")
@click.option("--no-weights", is_flag=True, help="Compare names, shapes and types of tensors, not their bytes.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.pass_context
def command(ctx: click.Context, /, a: Path, b: Path, **options: Any) -> None:
    """Show what differs between models A and B: keys and values, tensors, shapes, types, weights.

    Each is a GGUF file, a shard of one, a GGML file or a Hugging Face folder. How a file lays the model out (version,
    byte order, padding, order, shards) is not compared. Ends with 0 when nothing differs and 1 when something does.

    \b
    Example: quantmill diff llama3.Q4_K_M.gguf llama3-imatrix.Q4_K_M.gguf --values
             quantmill diff llama3-f16.gguf Meta-Llama-3-8B/ --no-weights
    """
    from ..formats.differences import key_changes, tensor_changes
    from ..quantize.execute import cpu_count
    from .library.models import read_model

    one, other = read_model(a), read_model(b)
    keys = [] if options["no_metadata"] else key_changes(one.metadata, other.metadata)
    threads = options["threads"] or cpu_count()
    tensors = list(tensor_changes(one, other, weights=not options["no_weights"], threads=threads))
    figures = _measure(one, other, tensors) if options["values"] else {}
    if options["as_json"]:
        click.echo(json.dumps(_report(a, b, keys, tensors, figures)))
    elif not options["quiet"]:
        _print(one, other, keys, tensors, figures)
    ctx.exit(1 if keys or tensors else 0)


def _measure(a: Model, b: Model, changes: list[TensorChange]) -> dict[str, TensorReport]:
    """B's error against A, for tensors that are in both with one shape."""
    from ..formats.gguf.writer import ggml_shape
    from ..quantize.compare import compare

    def flat(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=ggml_shape(tensor.shape))

    pairs = [(flat(c.a), flat(c.b)) for c in changes if c.change in ("type", "weights") and c.a and c.b]
    ours = replace(b, tensors=tuple(theirs for _, theirs in pairs))
    base = replace(a, tensors=tuple(tensor for tensor, _ in pairs))
    return {report.name: report for report in compare(ours, base)}


def _print(
    a: Model, b: Model, keys: list[KeyChange], tensors: list[TensorChange], figures: dict[str, TensorReport]
) -> None:
    if keys:
        click.echo("metadata")
        width = max(len(change.key) for change in keys)
        for change in keys:
            mark = "~" if change.a and change.b else "-" if change.a else "+"
            click.echo(f"{mark} {change.key:<{width}}  {_show_key(a, b, change)}")
    if tensors:
        click.echo("tensors")
        width = max(len(change.name) for change in tensors)
        for difference in tensors:
            mark = _MARKS.get(difference.change, "~")
            line = f"{mark} {difference.name:<{width}}  {_show_tensor(difference)}"
            click.echo(line + _show_figures(figures.get(difference.name)))
    if keys or tensors:
        click.echo(f"{_count(len(keys), 'key')} and {_count(len(tensors), 'tensor')} differ")
    else:
        click.echo(f"no difference in {len(a.metadata)} keys and {len(a.tensors)} tensors")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _show_key(a: Model, b: Model, change: KeyChange) -> str:
    from ..formats.differences import array_difference
    from ..formats.gguf.edit import show_value
    from ..formats.gguf.keys import type_name

    shown = [show_value(v, m.metadata, change.key) for m, v in ((a, change.a), (b, change.b)) if v is not None]
    if change.a is None or change.b is None:
        return shown[0]
    found = array_difference(change.a, change.b)
    if found is not None:
        index, count = found
        return f"{' -> '.join(shown)}; {count} items differ, the first is [{index}]"
    kinds = [type_name(value.type, value.item) for value in (change.a, change.b)]
    if kinds[0] != kinds[1]:
        shown = [f"{text} ({kind})" for text, kind in zip(shown, kinds, strict=True)]
    return " -> ".join(shown)


def _show_tensor(change: TensorChange) -> str:
    sides = [side for side in (change.a, change.b) if side is not None]
    shapes = [" x ".join(map(str, side.shape)) or "1" for side in sides]
    types = [side.qtype.name for side in sides]
    if change.change == "shape":
        return " -> ".join(f"{kind} {shape}" for kind, shape in zip(types, shapes, strict=True))
    if change.change == "type":
        return f"{types[0]} -> {types[1]}"
    return f"{types[0]} weights" if change.change == "weights" else f"{types[0]} {shapes[0]}"


def _show_figures(report: TensorReport | None) -> str:
    if report is None or report.rmse is None:
        return ""
    return f"  rel. RMSE {report.rmse:.3e}  max error {report.max_error:.3e}  cosine {report.cosine:.7f}"


def _report(
    a: Path, b: Path, keys: list[KeyChange], tensors: list[TensorChange], figures: dict[str, TensorReport]
) -> dict[str, Any]:
    from .inspect import finite

    rows = []
    for change in tensors:
        row: dict[str, Any] = {"name": change.name, "change": change.change}
        for side, tensor in (("a", change.a), ("b", change.b)):
            row[side] = {"type": tensor.qtype.name, "shape": list(tensor.shape)} if tensor else None
        found = figures.get(change.name)
        if found is not None:
            row |= {name: finite(getattr(found, name)) for name in ("rmse", "max_error", "cosine")}
        rows.append(row)
    return {
        "a": str(a),
        "b": str(b),
        "equal": not keys and not tensors,
        "metadata": [_key_row(change) for change in keys],
        "tensors": rows,
    }


def _key_row(change: KeyChange) -> dict[str, Any]:
    from ..formats.differences import array_difference
    from ..formats.gguf.keys import type_name
    from ..formats.ir import ValueType
    from .inspect import plain_value

    row: dict[str, Any] = {"key": change.key}
    for side, value in (("a", change.a), ("b", change.b)):
        if value is None:
            row[side] = None
        elif value.type is ValueType.ARRAY:  # in full with `inspect --json`
            row[side] = {"type": type_name(value.type, value.item), "length": len(value.data)}
        else:
            row[side] = {"type": type_name(value.type, value.item), "value": plain_value(value)}
    found = array_difference(change.a, change.b) if change.a and change.b else None
    if found is not None:
        row |= {"first_difference": found[0], "items_that_differ": found[1]}
    return row
