"""``quantmill archs``: list the architectures that can be converted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .api.checks import refuse
from .terminal.lines import print_json, print_line
from .terminal.table import print_table

if TYPE_CHECKING:
    from .api.checking import CheckedCheckpoint


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one object each: name, kind, gguf, hf_classes, proof, proven."
)
@click.option("--quiet", is_flag=True, help="Print names only.")
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Instead: whether this folder, or config.json, converts, with which proof, and what would be left out.",
)
def command(pattern: str | None, as_json: bool, quiet: bool, check: Path | None) -> None:
    """List the architectures that can be converted, or those whose name or model class contains PATTERN.

    Each is a module of data in formats/hf/archs, and each is proven by tests: llama.cpp computes transformers' logits
    from the converted file, the file is that of llama.cpp's own converter but for listed differences, converting back
    restores the checkpoint, and quantized files run. CONTRIBUTING.md shows how to add one.

    With --check no weight is converted: a config.json alone is enough. What does not convert is an error, which says
    why.

    \b
    Example: quantmill archs
             quantmill archs qwen --json
             quantmill archs --check Qwen3-VL-4B-Instruct/config.json
    """
    if check is not None:
        refuse({"PATTERN": pattern is not None}, "--check is for one checkpoint")
        _check(check, as_json, quiet)
        return
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


def _check(path: Path, as_json: bool, quiet: bool) -> None:
    from .api.checking import check_checkpoint

    found = check_checkpoint(path)
    if as_json:
        plain = {**vars(found), "path": str(found.path), "said": list(found.said), "towers": list(found.towers)}
        print_json({**plain, "converts": True})
    elif quiet:
        print_line(found.name)
    else:
        for line in _told(found):
            print_line(line)


def _told(found: CheckedCheckpoint) -> Iterator[str]:
    from .api.architectures import PROVEN

    seen = "config and weights" if found.weights else "config alone"
    yield f"{found.path}: converts, as {found.name} ({found.hf_class}; {seen})"
    yield f"proof: {PROVEN[found.proof]}" + (f"; {found.by_converter}" if found.by_converter else "")
    same = "the same checkpoint" if found.back == found.hf_class else f"the text model, a {found.back}"
    yield f"the way back: {f'refused: {found.one_way}' if found.one_way else same}"
    yield f"tokenizer: {found.tokenizer or 'none here'}"
    if found.towers:
        yield f"towers: {', '.join(found.towers)}, which convert --mmproj writes; without it they are left out"
    elif found.no_towers:
        yield f"towers: left out, and --mmproj writes none: {found.no_towers}"
    yield from found.said
