"""``quantmill reproduce``: make the files of a release again, and compare their checksums."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The checkpoint the release was made of.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="The importance matrix.  [default: beside MANIFEST]")
@click.option(
    "-f",
    "--file",
    "text",
    type=click.Path(path_type=Path),
    help="The text that a refined release was calibrated on.  [default: the package's, or the one beside MANIFEST]",
)
@click.option("--levels", metavar="LIST", help="Make only these, such as Q4_K_M,Q5_K_M.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="The folder for temporary files.  [default: beside MANIFEST]"
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", is_flag=True, help="Print only files that differ.")
@click.pass_context
def command(
    ctx: click.Context,
    manifest: Path,
    model: Path,
    imatrix: Path | None,
    text: Path | None,
    levels: str | None,
    work: Path | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the files of a release again from MANIFEST and the model, and compare their checksums.

    The importance matrix is the one that was published, because collecting it sums floats in an order that differs
    between machines. Second moments, which refined files need, are collected again from the text. The exit code is 1
    when a file differs.

    Example: quantmill reproduce llama3-gguf/manifest.json --model Meta-Llama-3-8B-Instruct
    """
    from .api.releasing.manifest import versions
    from .api.releasing.reproduce import reproduce

    chosen = None if levels is None else [level.strip() for level in levels.split(",")]
    with ProgressDisplay(quiet=quiet) as progress:
        found = reproduce(
            manifest, model, imatrix=imatrix, text=text, levels=chosen, work_folder=work, threads=threads,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"manifest": str(manifest), "same": found.ok, "files": dict(found.same)})
    else:
        for name, equal in found.same.items():
            if not (equal and quiet):
                print_line(f"{name}: {'the same bytes' if equal else 'other bytes'}", err=not equal)
        then, now = found.manifest.versions.get("quantmill"), versions()["quantmill"]
        if not found.ok and then != now:
            print_line(f"the release was made by quantmill {then}, this is {now}", err=True)
    ctx.exit(0 if found.ok else 1)
