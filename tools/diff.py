"""``quantmill diff``: show what differs between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.table import print_table

if TYPE_CHECKING:
    from ..formats.differences import KeyChange, TensorChange
    from ..quantize.compare import TensorReport
    from .api.differences import ModelDifferences
    from .api.json_values import Json

_MARKS = {"removed": "-", "added": "+"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--values", is_flag=True, help="Decode the tensors that differ, and measure by how much.")
@click.option("--no-metadata", is_flag=True, help="Compare the tensors only.")
@click.option("--no-weights", is_flag=True, help="Compare names, shapes and types of tensors, not their bytes.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; the exit code says whether they differ.")
@click.pass_context
def command(
    ctx: click.Context,
    a: Path,
    b: Path,
    values: bool,
    no_metadata: bool,
    no_weights: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what differs between models A and B: keys and values, tensors, shapes, types, weights.

    Each is a GGUF file, a shard of one, a GGML file or a Hugging Face folder. How a file lays the model out (version,
    byte order, padding, order, shards) is not compared. The exit code is 0 when nothing differs and 1 otherwise.

    \b
    Example: quantmill diff llama3.Q4_K_M.gguf llama3-imatrix.Q4_K_M.gguf --values
             quantmill diff llama3-f16.gguf Meta-Llama-3-8B/ --no-weights
    """
    from .api.differences import diff

    with ProgressDisplay(quiet=quiet) as progress:
        found = diff(
            a, b, metadata=not no_metadata, weights=not no_weights, values=values, threads=threads, progress=progress
        )
    if as_json:
        print_json(_as_json(a, b, found))
    elif not quiet:
        _print(found)
    ctx.exit(0 if found.equal else 1)


def _print(found: ModelDifferences) -> None:
    if found.keys:
        print_line("metadata")
        print_table([(f"{_mark(change)} {change.key}", _show_key(found, change)) for change in found.keys])
    if found.tensors:
        print_line("tensors")
        rows = []
        for change in found.tensors:
            figures = _show_figures(found.errors.get(change.name))
            rows.append((f"{_MARKS.get(change.change, '~')} {change.name}", f"{_show_tensor(change)}{figures}"))
        print_table(rows)
    if found.equal:
        print_line(f"no difference in {len(found.a.metadata)} keys and {len(found.a.tensors)} tensors")
    else:
        print_line(f"{_count(len(found.keys), 'key')} and {_count(len(found.tensors), 'tensor')} differ")


def _mark(change: KeyChange) -> str:
    return "~" if change.a and change.b else "-" if change.a else "+"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _show_key(found: ModelDifferences, change: KeyChange) -> str:
    from ..formats.differences import array_difference
    from ..formats.gguf.edit import show_value
    from ..formats.gguf.keys import type_name

    sides = ((found.a, change.a), (found.b, change.b))
    shown = [show_value(value, model.metadata, change.key) for model, value in sides if value is not None]
    if change.a is None or change.b is None:
        return shown[0]
    items = array_difference(change.a, change.b)
    if items is not None:
        index, count = items
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


def _as_json(a: Path, b: Path, found: ModelDifferences) -> dict[str, Json]:
    return {
        "a": str(a),
        "b": str(b),
        "equal": found.equal,
        "metadata": [_key_as_json(change) for change in found.keys],
        "tensors": [_tensor_as_json(change, found.errors.get(change.name)) for change in found.tensors],
    }


def _tensor_as_json(change: TensorChange, report: TensorReport | None) -> Json:
    from .api.json_values import json_number

    row: dict[str, Json] = {"name": change.name, "change": change.change}
    for side, tensor in (("a", change.a), ("b", change.b)):
        row[side] = {"type": tensor.qtype.name, "shape": list(tensor.shape)} if tensor else None
    if report is not None:
        row |= {name: json_number(getattr(report, name)) for name in ("rmse", "max_error", "cosine")}
    return row


def _key_as_json(change: KeyChange) -> Json:
    from ..formats.differences import array_difference
    from ..formats.gguf.keys import type_name
    from ..formats.ir import ValueType
    from .api.json_values import json_value

    row: dict[str, Json] = {"key": change.key}
    for side, value in (("a", change.a), ("b", change.b)):
        if value is None:
            row[side] = None
        elif value.type is ValueType.ARRAY:  # in full with `inspect --json`
            row[side] = {"type": type_name(value.type, value.item), "length": len(value.items)}
        else:
            row[side] = {"type": type_name(value.type, value.item), "value": json_value(value)}
    items = array_difference(change.a, change.b) if change.a and change.b else None
    if items is not None:
        row |= {"first_difference": items[0], "items_that_differ": items[1]}
    return row
