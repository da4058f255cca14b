"""``quantmill inspect``: show what is in a GGUF file, on the terminal or as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .api.checks import refuse
from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay
from .terminal.table import print_table

if TYPE_CHECKING:
    from .api.description import Description
    from .api.json_values import Json


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything, arrays in full, as one JSON object.")
@click.option("--no-tensors", is_flag=True, help="Leave out the list of tensors.")
@click.option(
    "--recipe",
    is_flag=True,
    help="Print the types of the tensors as a recipe, for --tensor-type-file of quantize and of llama-quantize.",
)
@click.option("--markdown", is_flag=True, help="Print everything as Markdown.")
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="PAGE", help="Write an HTML page instead.")
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="MODEL", help="Show each tensor's error to MODEL's in PAGE."
)
@click.option("--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Show this importance matrix in PAGE.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--force", is_flag=True, help="Replace PAGE if it exists.")
@click.option("--quiet", is_flag=True, help="Print nothing; useful with --html.")
def command(
    file: Path,
    as_json: bool,
    no_tensors: bool,
    recipe: bool,
    markdown: bool,
    page: Path | None,
    against: Path | None,
    imatrix: Path | None,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Show a GGUF FILE's metadata, tensors, types and bits per weight. For a shard, show its whole model.

    With --html, write one self-contained page: tensors by type, size per layer, metadata, and heat maps by layer and
    role of the error (--against) and the importance (--imatrix).

    \b
    Example: quantmill inspect llama3.Q4_K_M.gguf
             quantmill inspect llama3.Q4_K_M.gguf --html report.html --against llama3-f16.gguf
             quantmill inspect published.Q4_K_M.gguf --recipe > recipe.txt
    """
    from ..formats.storage.output import human_bytes

    if page is not None:
        other = {"--json": as_json, "--no-tensors": no_tensors, "--recipe": recipe, "--markdown": markdown}
        refuse(other, "--html writes a page, with all tensors")
        from .reports.report import write_report

        with ProgressDisplay(quiet=quiet) as progress:
            size = write_report(
                file, page, against=against, imatrix=imatrix, threads=threads, force=force, progress=progress
            )
        if not quiet:
            print_line(f"{page}: {human_bytes(size)}")
        return
    of_page = {"--against": against is not None, "--imatrix": imatrix is not None, "--threads": threads is not None}
    refuse({**of_page, "--force": force}, "it is for the page", "give --html PAGE too")
    if recipe:
        refuse({"--json": as_json, "--no-tensors": no_tensors, "--markdown": markdown}, "--recipe prints a recipe")
        _print_recipe(file, quiet)
        return
    refuse({"--markdown": as_json and markdown}, "--json is given")
    from .api.description import describe

    found = describe(file)
    if as_json:
        print_json(_as_json(found, tensors=not no_tensors), indent=1)
    elif markdown:
        _print_markdown(found, tensors=not no_tensors)
    elif not quiet:
        _print(found, tensors=not no_tensors)


def _as_json(found: Description, tensors: bool) -> dict[str, Json]:
    """Everything as plain data; strings that are not UTF-8 keep lone surrogates."""
    from ..formats.gguf.keys import type_name
    from .api.json_values import json_value

    first = found.headers[0]
    report: dict[str, Json] = {
        "path": str(found.path),
        "version": first.version,
        "byteorder": first.byteorder,
        "alignment": first.alignment,
        "file_size": found.file_size,
        "data_start": first.data_start,
        "weights": found.n_weights,
        "tensor_bytes": found.tensor_bytes,
        "bpw": found.bpw,
        "types": {
            row.name: {"tensors": row.n_tensors, "weights": row.n_weights, "bytes": row.nbytes, "bpw": row.bpw}
            for row in found.types
        },
        "metadata": {
            key: {"type": type_name(value.type, value.item), "value": json_value(value)}
            for key, value in found.metadata.items()
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
            for t in found.tensors
        ]
    if len(found.headers) > 1:
        report["shards"] = [
            {"path": str(h.path), "tensors": len(h.tensors), "file_size": h.file_size} for h in found.headers
        ]
    return report


def _print(found: Description, tensors: bool) -> None:
    from ..formats.gguf.edit import show_value
    from ..formats.storage.output import human_bytes

    first = found.headers[0]
    shards = f" in {len(found.headers)} shards" if len(found.headers) > 1 else ""
    size = human_bytes(found.file_size)
    print_line(f"{found.path}: GGUF v{first.version}, {first.byteorder}-endian, {size}{shards}")
    weights = f"{found.n_weights / 1e6:.1f} M weights, {found.bpw:.2f} bits per weight"
    print_line(f"{len(found.tensors)} tensors, {weights}")
    print_line()
    print_line("metadata")
    metadata = found.metadata
    print_table(
        [(key, show_value(value, metadata, key) + _level(key, value.data)) for key, value in metadata.items()], indent=2
    )
    print_line()
    print_line("types")
    print_table(
        [
            (row.name, f"{row.n_tensors} tensors", human_bytes(row.nbytes), f"{row.bpw:.3f} bits per weight")
            for row in found.types
        ],
        right=(1, 2, 3),
        indent=2,
    )
    if tensors:
        print_line()
        print_line("tensors")
        print_table(
            [
                (t.name, t.qtype.name, " x ".join(map(str, t.shape)) or "1", human_bytes(t.nbytes))
                for t in found.tensors
            ],
            right=(2, 3),
            indent=2,
        )


def _print_recipe(file: Path, quiet: bool) -> None:
    """Print the recipe alone on stdout, and on stderr what it does not give."""
    from .api.recipe_files import find_recipe

    found = find_recipe(file)
    for line in found.lines:
        print_line(line)
    for line in found.beyond:
        print_line(f"not in the recipe: {line}", err=True)
    if not quiet:
        print_line(f"use it with quantize MODEL OUT {found.level or 'LEVEL'} --tensor-type-file FILE", err=True)


def _print_markdown(found: Description, tensors: bool) -> None:
    from ..formats.gguf.edit import show_value
    from ..formats.storage.output import human_bytes
    from .api.releasing.markdown import code

    def table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        for row in (heading, ("---",) * len(heading), *rows):
            print_line(f"| {' | '.join(row)} |")
        print_line()

    first = found.headers[0]
    print_line(f"# {code(found.path.name)}")
    print_line()
    print_line(
        f"GGUF v{first.version}, {human_bytes(found.file_size)}, {len(found.tensors)} tensors, "
        f"{found.n_weights / 1e6:.1f} M weights, {found.bpw:.2f} bits per weight"
    )
    print_line()
    table(
        ("type", "tensors", "size", "bits per weight"),
        [(row.name, str(row.n_tensors), human_bytes(row.nbytes), f"{row.bpw:.3f}") for row in found.types],
    )
    metadata = found.metadata
    shown = [
        (_cell(code(key)), _cell(code(show_value(value, metadata, key) + _level(key, value.data))))
        for key, value in metadata.items()
    ]
    table(("key", "value"), shown)
    if tensors:
        rows = [
            (_cell(code(t.name)), t.qtype.name, " x ".join(map(str, t.shape)) or "1", human_bytes(t.nbytes))
            for t in found.tensors
        ]
        table(("tensor", "type", "shape", "size"), rows)


def _cell(text: str) -> str:
    """A cell of a table, in which a bar would begin another."""
    return text.replace("|", "\\|")


def _level(key: str, data: object) -> str:
    """The level's name, as `` (Q4_K_M)``, to follow the number of a file type."""
    from ..formats.gguf.keys import GENERAL_FILE_TYPE, LEVEL_OF_FILE_TYPE

    known = key == GENERAL_FILE_TYPE and isinstance(data, int) and data in LEVEL_OF_FILE_TYPE
    return f" ({LEVEL_OF_FILE_TYPE[data]})" if known else ""  # type: ignore[index]
