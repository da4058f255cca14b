"""``quantmill archs``: list the architectures that can be converted."""

from __future__ import annotations

import click

from .terminal.lines import print_json, print_line
from .terminal.table import print_table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one object each: name, kind, gguf, hf_classes, proof, proven."
)
@click.option("--quiet", is_flag=True, help="Print names only.")
def command(pattern: str | None, as_json: bool, quiet: bool) -> None:
    """List the architectures that can be converted, or those whose name or model class contains PATTERN.

    Each is a module of data in formats/hf/archs, and each is proven by tests: llama.cpp computes transformers' logits
    from the converted file, the file is that of llama.cpp's own converter but for listed differences, converting back
    restores the checkpoint, and quantized files run. CONTRIBUTING.md shows how to add one.

    \b
    Example: quantmill archs
             quantmill archs qwen --json
    """
    from .api.architectures import PROVEN, architectures

    found = architectures(pattern or "")
    if as_json:
        rows = [{**vars(arch), "hf_classes": list(arch.hf_classes), "proven": list(arch.proven)} for arch in found]
        print_json(rows)
    elif quiet:
        print_table([[arch.name] for arch in found])
    else:
        n_text = sum(arch.kind == "text" for arch in found)
        print_table([(arch.name, arch.kind, ", ".join(arch.hf_classes)) for arch in found])
        of_text = [PROVEN[key] for key in ("logits", "converter", "identity", "levels")]
        print_line(f"{n_text} architectures of text; of each: " + "; ".join(of_text))
        print_line(f"{len(found) - n_text} towers; of each: {PROVEN['embeddings']}; it comes back bit for bit")
