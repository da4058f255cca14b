"""``quantmill hash``: what a model is, in one line, whatever file it stands in."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the hashes as JSON.")
@click.option("--quiet", is_flag=True, help="Print the model's hash alone.")
def command(model: Path, threads: int | None, as_json: bool, quiet: bool) -> None:
    """Print the SHA-256 of each tensor of MODEL, of all tensors, of the metadata and of the model.

    A tensor's hash is that of its bytes; the model's says the same of a file, of its shards, of a big-endian copy, of
    one with other padding or with its tensors in another order. formats/digest.py defines each to the byte.

    \b
    Example: quantmill hash llama3.Q4_K_M.gguf
             quantmill hash llama3.Q4_K_M-00001-of-00004.gguf --quiet
    """
    from ..formats.digest import model_digests
    from ..quantize.execute import cpu_count
    from .library.models import read_model
    from .library.planned import progress_bar

    source = read_model(model)
    with progress_bar(sum(tensor.nbytes for tensor in source), model.name, quiet) as progress:
        digests = model_digests(source, threads=threads or cpu_count(), progress=progress)
    if as_json:
        tensors = [
            {"name": t.name, "type": t.qtype.name, "shape": list(t.shape), "sha256": digests.of[t.name]} for t in source
        ]
        totals = {"model": digests.model, "tensors_sha256": digests.tensors, "metadata_sha256": digests.metadata}
        click.echo(json.dumps({"path": str(model)} | totals | {"tensors": tensors}))
    elif quiet:
        click.echo(digests.model)
    else:
        for tensor in source:
            click.echo(f"{digests.of[tensor.name]}  {tensor.qtype.name:<8}  {tensor.name}")
        click.echo(f"{digests.tensors}  all tensors\n{digests.metadata}  metadata\n{digests.model}  model")
