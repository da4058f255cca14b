"""``quantmill reproduce``: the files of a release made again, and compared by checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from ..formats.errors import FormatError, PlanError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The checkpoint the release was made of.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="The importance matrix.  [default: beside MANIFEST]")
@click.option("--levels", metavar="LIST", help="Only these, such as Q4_K_M,Q5_K_M.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Where the files go for a while.  [default: beside MANIFEST]"
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", is_flag=True, help="Print failures only.")
@click.pass_context
def command(ctx: click.Context, /, manifest: Path, model: Path, **options: Any) -> None:
    """Make the files of a release again from MANIFEST and the model, and compare their checksums.

    The importance matrix is taken as it was published: collecting it sums floats in an order that differs between
    machines. Ends with 1 when a file differs.

    Example: quantmill reproduce llama3-gguf/manifest.json --model Meta-Llama-3-8B-Instruct
    """
    from .library.releasing.manifest import read_manifest, versions

    content = read_manifest(manifest)
    files = _wanted(content, options["levels"], manifest)
    _check_source(content, model)
    imatrix = _imatrix(content, options["imatrix"], manifest)
    found = _make(content, files, model, imatrix, options["work"] or manifest.parent, options)
    same = {name: found[name] == about["sha256"] for name, about in files.items()}
    if options["as_json"]:
        click.echo(json.dumps({"manifest": str(manifest), "same": all(same.values()), "files": same}))
    else:
        for name, equal in same.items():
            if not (equal and options["quiet"]):
                click.echo(f"{name}: {'the same bytes' if equal else 'other bytes'}", err=not equal)
        then, now = content["versions"].get("quantmill"), versions()["quantmill"]
        if not all(same.values()) and then != now:
            click.echo(f"the release was made by quantmill {then}, this is {now}", err=True)
    ctx.exit(0 if all(same.values()) else 1)


def _wanted(content: Mapping[str, Any], levels: str | None, manifest: Path) -> dict[str, Any]:
    files: dict[str, Any] = content["files"]
    if levels is None:
        return files
    wanted = {level.strip().upper() for level in levels.split(",")}
    unknown = wanted - {about["level"] for about in files.values()}
    if unknown:
        raise PlanError(f"has no {', '.join(sorted(unknown))}", path=manifest, where="--levels")
    return {name: about for name, about in files.items() if about["level"] in wanted}


def _check_source(content: Mapping[str, Any], model: Path) -> None:
    """The same files as then; what came to the folder since is no matter."""
    from ..formats.storage.durable import sha256_of_file
    from .library.releasing.manifest import source_files

    if not model.exists():
        raise FormatError("no such file or folder", path=model)
    here = {path.name: path for path in source_files(model)}
    if model.is_file() and len(content["source"]["files"]) == 1:
        here = {next(iter(content["source"]["files"])): model}  # by whatever name
    for name, about in content["source"]["files"].items():
        if name not in here:
            raise FormatError(f"{name} is missing, which the release was made of", path=model)
        if here[name].stat().st_size != about["bytes"] or sha256_of_file(here[name]) != about["sha256"]:
            raise FormatError("is not what the release was made of", path=here[name], hint="get the same revision")


def _imatrix(content: Mapping[str, Any], given: Path | None, manifest: Path) -> Path | None:
    from ..formats.storage.durable import sha256_of_file

    if content["imatrix"] is None:
        return None
    path = given or manifest.parent / content["imatrix"]["file"]
    if not path.is_file():
        raise FormatError("the importance matrix is missing", path=path, hint="--imatrix names it")
    if sha256_of_file(path) != content["imatrix"]["sha256"]:
        raise FormatError("is not the importance matrix of the release", path=path)
    return path


def _make(
    content: Mapping[str, Any], files: Mapping[str, Any], model: Path, imatrix: Path | None, work: Path,
    options: Mapping[str, Any],
) -> dict[str, str]:  # fmt: skip
    """Each file's checksum, made one at a time, so that the disk needs room for one."""
    from ..formats.storage.durable import sha256_of_file
    from ..quantize.execute import Job
    from ..quantize.plan import PlanOptions, make_plan
    from .library.models import read_model
    from .library.options import WriteOptions
    from .library.planning import with_imatrix, write_plans
    from .terminal.progress import ProgressDisplay

    source = read_model(model)
    used = content["options"]
    recipe_set = used.get("recipe_set", used.get("book"))  # its name in earlier manifests
    noted_name = None if imatrix is None else content["imatrix"]["file"]  # whatever it is called here
    plan_options, _ = with_imatrix(PlanOptions(recipe_set=recipe_set), source, imatrix, name=noted_name)
    found = {}
    with TemporaryDirectory(prefix=".reproduce-", dir=work) as folder:
        for name, about in files.items():
            path = Path(folder) / name
            job = Job(make_plan(source, about["level"], plan_options), path)
            with ProgressDisplay(quiet=options["quiet"]) as progress:
                write_plans([job], options=WriteOptions(threads=options["threads"]), progress=progress)
            found[name] = sha256_of_file(path)
            path.unlink()
    return found
