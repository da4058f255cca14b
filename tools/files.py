"""What kind of thing a path is, and reading it as a Model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.errors import FormatError

if TYPE_CHECKING:
    from ..formats.ir import Model

KINDS = ("hf", "gguf")


def source_kind(path: Path) -> str:
    """``hf`` for a checkpoint's folder, ``gguf`` for a file. Raises ``FormatError`` when it is neither."""
    if path.is_dir():
        if (path / "config.json").is_file():
            return "hf"
        raise FormatError("no config.json in this folder", path=path, hint="give a Hugging Face checkpoint's folder")
    if path.is_file():
        return "gguf"  # its reader says what else the file looks like
    raise FormatError("no such file or folder", path=path)


def target_kind(path: Path) -> str:
    """``gguf`` when the name ends so, else a folder for ``hf``."""
    return "gguf" if path.suffix == ".gguf" else "hf"


def read_model(path: Path, *, kind: str | None = None, pre: str | None = None) -> Model:
    """Read a checkpoint of either kind; ``pre`` overrides the pre-tokenizer's name of a Hugging Face one."""
    if (kind or source_kind(path)) == "hf":
        from ..formats.hf.load import read_hf

        return read_hf(path, pre=pre)
    from ..formats.gguf.reader import read_gguf

    return read_gguf(path)
