"""How models on the hub are named: ``org/name``, ``org/name@revision``, ``hf://org/name@revision/file.gguf``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, PlanError
from ..storage.endings import ending

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
# A branch, a tag, a commit's hash, or a pull request as the hub names it.
_REVISION = r"@(?:(refs/(?:pr|convert)/[\w.-]+)|([^/@]+))"
# A path of the shell joins the slashes: hf://org/name arrives as hf:/org/name.
_ADDRESS = re.compile(rf"hf:/{{1,2}}({_NAME}/{_NAME})(?:{_REVISION})?(?:/+(.+))?")
_SHORT = re.compile(rf"({_NAME}/{_NAME})(?:{_REVISION})?")
_FILES = {".gguf", ".bin", ".json", ".safetensors", ".txt", ".dat"}  # endings of names that can only be files


@dataclass(frozen=True)
class HubAddress:
    """A repository of a model on the hub, or a file in one.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit's hash; None for the newest commit.
        file: a file's path in the repository; empty for the whole.

    Example:
        >>> from quantmill.formats.hub.address import HubAddress
        >>> str(HubAddress("org/name", "v1", "name-Q4_K_M.gguf"))
        'hf://org/name@v1/name-Q4_K_M.gguf'
    """

    repo: str
    revision: str | None = None
    file: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}{f'/{self.file}' if self.file else ''}"


def find_address(source: str | os.PathLike[str]) -> HubAddress | None:
    """The address that a source is, or None where it is a path of this machine.

    ``org/name`` is a path wherever such a file or folder exists, or the folder ``org`` does; ``hf://`` never is.

    Raises:
        FormatError: it begins with ``hf:`` and is no address.

    Example:
        >>> from quantmill.formats.hub.address import find_address
        >>> find_address("hf://org/name@main")
        HubAddress(repo='org/name', revision='main', file='')
        >>> find_address("models/name-f16.gguf") is None
        True
    """
    text = os.fspath(source)
    if match := _ADDRESS.fullmatch(text):
        return HubAddress(match[1], match[2] or match[3], match[4] or "")
    if text.startswith("hf:"):
        hint = "hf://org/name, hf://org/name@revision or hf://org/name/file.gguf"
        raise FormatError("is no address on the hub", path=Path(text), hint=hint)
    match = _SHORT.fullmatch(text)
    if match is None or ending(Path(text)) in _FILES or Path(text).exists() or Path(text).parent.is_dir():
        return None
    return HubAddress(match[1], match[2] or match[3])


def check_repository(name: str) -> str:
    """A repository's name to write to.

    Raises:
        PlanError: it is none.

    Example:
        >>> from quantmill.formats.hub.address import check_repository
        >>> check_repository("hf://org/name-GGUF")
        'org/name-GGUF'
    """
    match = re.fullmatch(rf"(?:hf:/{{1,2}})?({_NAME}/{_NAME})/?", name)
    if match is None:
        raise PlanError(f"{name!r} is no repository's name", hint="give org/name, such as me/Tiny-1B-GGUF")
    return match[1]
