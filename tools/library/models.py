"""What kind of thing a path is, and reading it as a Model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...formats.errors import FormatError

if TYPE_CHECKING:
    from ...formats.ggml.reader import GGMLSettings
    from ...formats.ir import Model
    from ...formats.progress import Progress

KINDS = ("hf", "gguf", "ggml")
ADAPTER = "lora"  # a kind that only convert reads


def source_kind(path: Path) -> str:
    """``hf`` for a checkpoint's folder, ``lora`` for an adapter's, ``gguf`` or ``ggml`` for a file. Raises
    ``FormatError`` when it is none."""
    if path.is_dir():
        if (path / "config.json").is_file():
            return "hf"
        if (path / "adapter_config.json").is_file():
            return ADAPTER
        raise FormatError("no config.json in this folder", path=path, hint="give a Hugging Face checkpoint's folder")
    if path.is_file():
        from ...formats.ggml.wire import MAGICS

        with path.open("rb") as file:
            return "ggml" if file.read(4) in MAGICS else "gguf"  # whose reader says what else the file looks like
    raise FormatError("no such file or folder", path=path)


def target_kind(path: Path) -> str:
    """``gguf`` or, for .bin, ``ggml`` when the name ends so, else a folder for ``hf``."""
    return {".gguf": "gguf", ".bin": "ggml"}.get(path.suffix, "hf")


def read_model(
    path: Path,
    *,
    kind: str | None = None,
    pre: str | None = None,
    settings: GGMLSettings | None = None,
    quiet: bool = False,
) -> Model:
    """Read a checkpoint of any kind.

    Args:
        pre: the pre-tokenizer's name, instead of the one found for a Hugging Face checkpoint.
        settings: what a GGML file does not store; what has to be assumed is said on stderr.
        quiet: do not say on stderr what became of a quantized checkpoint's weights.
    """
    kind = kind or source_kind(path)
    if kind == "hf":
        from ...formats.hf.load import read_hf

        return read_hf(path, pre=pre, say=None if quiet else lambda text: click.echo(text, err=True))
    if kind == ADAPTER:
        raise FormatError("is a LoRA adapter, no model", path=path, hint="quantmill convert makes a GGUF adapter of it")
    if kind == "ggml":
        from ...formats.ggml.reader import GGMLSettings, read_ggml

        return read_ggml(path, settings or GGMLSettings(), warn=lambda text: click.echo(f"warning: {text}", err=True))
    from ...formats.gguf.reader import read_gguf

    return read_gguf(path)


def as_model(source: str | Path | Model, *, progress: Progress | None = None) -> Model:
    """Read a model, unless it was read already; see ``read_model``."""
    return read_model(Path(source), quiet=progress is None) if isinstance(source, str | Path) else source
