"""``quantmill inspect``: what is in a GGUF file, on the terminal or as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..formats.gguf.reader import GGUFHeader, TensorEntry


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, arrays in full, as one JSON object.")
@click.option("--no-tensors", is_flag=True, help="Leave out the list of tensors.")
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="PAGE", help="Write a page to look at.")
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="MODEL", help="The page shows each tensor's error to MODEL's."
)
@click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="The page shows this importance matrix."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--force", is_flag=True, help="Replace PAGE if it exists.")
@click.option("--quiet", is_flag=True, help="With --html: no progress, no summary.")
def command(file: Path, as_json: bool, no_tensors: bool, **options: Any) -> None:
    """Show a GGUF FILE's metadata, tensors, types and bits per weight. A shard stands for its whole model.

    With --html one self-contained page: tensors by type, size per layer, metadata, and heat maps by layer and role of
    the error (--against) and the importance (--imatrix).

    \b
    Example: quantmill inspect llama3.Q4_K_M.gguf
             quantmill inspect llama3.Q4_K_M.gguf --html report.html --against llama3-f16.gguf
    """
    from ..formats.gguf.reader import read_headers

    if options["page"] is not None:
        _write_page(file, options["page"], options)
        return
    for name in ("against", "imatrix"):
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for the page: give --html PAGE too")
    headers = read_headers(file)
    if as_json:
        import json

        click.echo(json.dumps(describe(*headers, tensors=not no_tensors), ensure_ascii=True, indent=1))
    elif not options["quiet"]:
        _print(headers, tensors=not no_tensors)


def _write_page(file: Path, page: Path, options: dict[str, Any]) -> None:
    from ..formats.gguf.reader import read_gguf, read_headers
    from ..formats.imatrix_file import read_imatrix
    from ..formats.storage.output import atomic_output, human_bytes
    from ..quantize.execute import cpu_count
    from .library.models import read_model
    from .library.planned import progress_bar
    from .reports.figures import gather
    from .reports.page import page as render

    model = read_gguf(file)
    against = read_model(options["against"]) if options["against"] else None
    imatrix = read_imatrix(options["imatrix"]) if options["imatrix"] else None
    inputs = [*model.paths, *(against.paths if against else ()), *([options["imatrix"]] if imatrix else [])]
    with atomic_output(page, None, options["force"], inputs) as output:  # before the work: it may not be writable
        quiet, threads = options["quiet"] or against is None, options["threads"] or cpu_count()
        with progress_bar(sum(tensor.nbytes for tensor in model), page.name, quiet) as progress:
            headers = read_headers(file)
            report = gather(model, headers, against=against, imatrix=imatrix, threads=threads, progress=progress)
        raw = render(report).encode("utf-8")
        output.write(raw)
    if not options["quiet"]:
        click.echo(f"{page}: {human_bytes(len(raw))}")


def describe(*headers: GGUFHeader, tensors: bool = True) -> dict[str, Any]:
    """A file, or the shards of a model, as plain data; what is true of each file is told of the first.

    Bits per weight count all tensors; strings that are no UTF-8 keep lone surrogates.
    """
    header = headers[0]
    entries = _entries(headers)
    weights = sum(_weights(t.shape) for t in entries)
    nbytes = sum(t.nbytes for t in entries)
    report: dict[str, Any] = {
        "path": str(header.path),
        "version": header.version,
        "byteorder": header.byteorder,
        "alignment": header.alignment,
        "file_size": sum(shard.file_size for shard in headers),
        "data_start": header.data_start,
        "weights": weights,
        "tensor_bytes": nbytes,
        "bpw": nbytes * 8 / weights if weights else 0.0,
        "types": _types(entries),
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
            for t in entries
        ]
    if len(headers) > 1:
        report["shards"] = [{"path": str(h.path), "tensors": len(h.tensors), "file_size": h.file_size} for h in headers]
    return report


def _entries(headers: Iterable[GGUFHeader]) -> list[TensorEntry]:
    return [entry for header in headers for entry in header.tensors]


def _print(headers: tuple[GGUFHeader, ...], tensors: bool) -> None:
    from ..formats.gguf.edit import show_value
    from ..formats.storage.output import human_bytes

    report, header, entries = describe(*headers, tensors=False), headers[0], _entries(headers)
    shards = f" in {len(headers)} shards" if len(headers) > 1 else ""
    size = human_bytes(report["file_size"])
    click.echo(f"{header.path}: GGUF v{header.version}, {header.byteorder}-endian, {size}{shards}")
    click.echo(f"{len(entries)} tensors, {report['weights'] / 1e6:.1f} M weights, {report['bpw']:.2f} bits per weight")
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
        width = max((len(t.name) for t in entries), default=0)
        for t in entries:
            shape = " x ".join(map(str, t.shape)) or "1"
            click.echo(f"  {t.name:{width}}  {t.qtype.name:8}  {shape:>18}  {human_bytes(t.nbytes):>10}")


def _types(entries: list[TensorEntry]) -> dict[str, dict[str, Any]]:
    """Type -> its tensors, weights, bytes and bits per weight, the largest first."""
    count: Counter[str] = Counter(t.qtype.name for t in entries)
    nbytes: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    bpw = {t.qtype.name: t.qtype.bpw for t in entries}
    for t in entries:
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

    return (
        f" ({LEVEL_OF_FILE_TYPE[data]})"
        if key == GENERAL_FILE_TYPE and isinstance(data, int) and data in LEVEL_OF_FILE_TYPE
        else ""
    )


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
