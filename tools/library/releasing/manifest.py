"""The manifest of a published set: all that is needed to make the same bytes again."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .... import __version__
from ....formats.errors import FormatError
from ....formats.storage.durable import sha256_of_file, write_durably

FORMAT = 1
NAME = "manifest.json"
_PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Of this program and what it computes with."""
    found = {"quantmill": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"platform": f"{sys.platform} {platform.machine()}"}


def source_files(model: Path) -> list[Path]:
    """What a model is read from: the file, or the files of a checkpoint's folder."""
    if model.is_file():
        return [model]
    return sorted(path for path in model.iterdir() if path.is_file() and not path.name.startswith("."))


def describe(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name -> bytes and checksum."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in paths}


def write_json(path: Path, content: Any) -> None:
    """Replaced whole, never half."""
    write_durably(path, f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest, checked for what ``reproduce`` needs.

    Raises:
        FormatError: it is no manifest, or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise FormatError(
                f"is of format {content['format']}, {FORMAT} is known", path=path, hint="update quantmill"
            )
        files = content["files"]
        for name, about in files.items():
            if Path(name).name != name or not isinstance(about["sha256"], str) or not isinstance(about["level"], str):
                raise FormatError("names a file that cannot be its own", path=path, where=str(name)[:80])
        _ = content["source"]["files"], content["options"]
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(
            "is no manifest of a release", path=path, hint="give the manifest.json that release wrote"
        ) from None
    found: dict[str, Any] = content
    return found
