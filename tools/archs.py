"""``quantmill archs``: the architectures we read and write."""

from __future__ import annotations

import json

import click

# What tests/formats/hf/test_archs.py shows of every entry; an architecture without a proof fails there.
PROVEN = {
    "logits": "llama.cpp computes transformers' logits from the converted file",
    "identity": "back from GGUF, weights, config and logits are the checkpoint's, bit for bit",
    "levels": "every level is planned; a k-quant and an IQ file run in llama.cpp",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="One object each: name, gguf, hf_classes, proven.")
@click.option("--quiet", is_flag=True, help="Names only.")
def command(pattern: str | None, as_json: bool, quiet: bool) -> None:
    """List the architectures, or those whose name or model class has PATTERN in it.

    Each is a module of data in formats/hf/archs, and each is proven the same way: llama.cpp computes transformers'
    logits, the way back is the identity, quantized files run. CONTRIBUTING.md shows how to add one.

    \b
    Example: quantmill archs
             quantmill archs qwen --json
    """
    from ..formats.hf.archs import ARCHS

    wanted = (pattern or "").lower()
    found = [arch for arch in ARCHS if any(wanted in name.lower() for name in (arch.name, *arch.classes))]
    rows = [
        {"name": arch.name, "gguf": arch.gguf, "hf_classes": list(arch.classes), "proven": list(PROVEN)}
        for arch in sorted(found, key=lambda arch: arch.name)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        click.echo(row["name"] if quiet else f"{row['name']:<{width}}  {', '.join(row['hf_classes'])}")
    if not quiet:
        click.echo(f"{len(rows)} architectures; of each: " + "; ".join(PROVEN.values()))
