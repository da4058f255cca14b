"""``quantmill hash``: the SHA-256 of a model, whatever file it is stored in."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the hashes as JSON.")
@click.option("--quiet", is_flag=True, help="Print the model's hash alone.")
def command(model: Path, threads: int | None, as_json: bool, quiet: bool) -> None:
    """Print the SHA-256 of each tensor of MODEL, of all tensors, of the metadata and of the model.

    A tensor's hash is that of its bytes. The model's hash is the same for a file, its shards, a big-endian copy, and a
    copy with other padding or with its tensors in another order. formats/digest.py defines each hash to the byte.

    \b
    Example: quantmill hash llama3.Q4_K_M.gguf
             quantmill hash llama3.Q4_K_M-00001-of-00004.gguf --quiet
    """
    from .api.digest import digest
    from .api.models import read_model

    with ProgressDisplay(quiet=quiet) as progress:
        source = read_model(model, progress=progress)
        digests = digest(source, threads=threads, progress=progress)
    if as_json:
        tensors = [
            {"name": t.name, "type": t.qtype.name, "shape": list(t.shape), "sha256": digests.of[t.name]} for t in source
        ]
        totals = {"model": digests.model, "tensors_sha256": digests.tensors, "metadata_sha256": digests.metadata}
        print_json({"path": str(model)} | totals | {"tensors": tensors})
    elif quiet:
        print_line(digests.model)
    else:
        for tensor in source:
            print_line(f"{digests.of[tensor.name]}  {tensor.qtype.name:<8}  {tensor.name}")
        print_line(f"{digests.tensors}  all tensors")
        print_line(f"{digests.metadata}  metadata")
        print_line(f"{digests.model}  model")
