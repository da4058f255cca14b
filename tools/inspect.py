"""``quantmill inspect``: what is in a GGUF file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..formats.gguf.reader import GGUFHeader


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, arrays in full, as one JSON object.")
@click.option("--no-tensors", is_flag=True, help="Leave out the list of tensors.")
def command(file: Path, as_json: bool, no_tensors: bool) -> None:
    """Show a GGUF FILE's metadata, tensors, types and bits per weight.

    Example: quantmill inspect llama3.Q4_K_M.gguf
    """
    from ..formats.gguf.reader import read_header

    header = read_header(file)
    if as_json:
        import json

        click.echo(json.dumps(describe(header, tensors=not no_tensors), ensure_ascii=True, indent=1))
    else:
        _print(header, tensors=not no_tensors)


def describe(header: GGUFHeader, tensors: bool = True) -> dict[str, Any]:
    """The file as plain data. Bits per weight count all tensors; strings that are no UTF-8 keep lone surrogates."""
    weights = sum(_weights(t.shape) for t in header.tensors)
    nbytes = sum(t.nbytes for t in header.tensors)
    report: dict[str, Any] = {
        "path": str(header.path),
        "version": header.version,
        "byteorder": header.byteorder,
        "alignment": header.alignment,
        "file_size": header.file_size,
        "data_start": header.data_start,
        "weights": weights,
        "tensor_bytes": nbytes,
        "bpw": nbytes * 8 / weights if weights else 0.0,
        "types": _types(header),
        "metadata": {
            key: {"type": _type(value), "value": plain_value(value)} for key, value in header.metadata.items()
        },
    }
    if tensors:
        report["tensors"] = [
            {
                "name": t.name,
                "shape": list(t.shape),
                "type": t.qtype.name,
                "offset": t.offset,
                "bytes": t.nbytes,
                "bpw": t.qtype.bpw,
            }
            for t in header.tensors
        ]
    return report


def _print(header: GGUFHeader, tensors: bool) -> None:
    from ..formats.gguf.edit import show_value
    from ..formats.output import human_bytes

    report = describe(header, tensors=False)
    click.echo(f"{header.path}: GGUF v{header.version}, {header.byteorder}-endian, {human_bytes(header.file_size)}")
    click.echo(
        f"{len(header.tensors)} tensors, {report['weights'] / 1e6:.1f} M weights, {report['bpw']:.2f} bits per weight"
    )
    click.echo("\nmetadata")
    width = max((len(key) for key in header.metadata), default=0)
    for key, value in header.metadata.items():
        click.echo(f"  {key:{width}}  {show_value(value, header.metadata, key)}{_level(key, value.data)}")
    click.echo("\ntypes")
    for name, row in report["types"].items():
        size = human_bytes(row["bytes"])
        click.echo(f"  {name:8}  {row['tensors']:5} tensors  {size:>10}  {row['bpw']:6.3f} bits per weight")
    if tensors:
        click.echo("\ntensors")
        width = max((len(t.name) for t in header.tensors), default=0)
        for t in header.tensors:
            shape = " x ".join(map(str, t.shape)) or "1"
            click.echo(f"  {t.name:{width}}  {t.qtype.name:8}  {shape:>18}  {human_bytes(t.nbytes):>10}")


def _types(header: GGUFHeader) -> dict[str, dict[str, Any]]:
    """Type -> its tensors, weights, bytes and bits per weight, the largest first."""
    count: Counter[str] = Counter(t.qtype.name for t in header.tensors)
    nbytes: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    bpw = {t.qtype.name: t.qtype.bpw for t in header.tensors}
    for t in header.tensors:
        nbytes[t.qtype.name] += t.nbytes
        weights[t.qtype.name] += _weights(t.shape)
    return {
        name: {"tensors": count[name], "weights": weights[name], "bytes": total, "bpw": bpw[name]}
        for name, total in nbytes.most_common()
    }


def _weights(shape: tuple[int, ...]) -> int:
    n = 1
    for dim in shape:
        n *= dim
    return n


def _level(key: str, data: Any) -> str:
    """`` (Q4_K_M)`` behind a file type's number."""
    from ..formats.gguf.keys import GENERAL_FILE_TYPE, LEVEL_OF_FILE_TYPE

    return f" ({LEVEL_OF_FILE_TYPE[data]})" if key == GENERAL_FILE_TYPE and data in LEVEL_OF_FILE_TYPE else ""


def _type(value: Any) -> str:
    from ..formats.gguf.keys import type_name

    return type_name(value.type, value.item)


def plain_value(value: Any) -> Any:
    """A value as JSON has it; NaN and infinities, which JSON lacks, as strings."""
    from ..formats.ir import Value, ValueType

    if value.type is ValueType.ARRAY:
        items = value.data.tolist() if hasattr(value.data, "tolist") else value.data
        return [plain_value(item) if isinstance(item, Value) else finite(item) for item in items]
    return finite(value.data)


def finite(item: Any) -> Any:
    """NaN and infinities, which JSON lacks, as strings; all else as it is."""
    if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):
        return str(item)
    return item
