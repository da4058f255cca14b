"""Links among a checkpoint's files: where they may lead.

A folder from a stranger can hold a link to any file of this machine, whose content would be published with the model.
So a link leads into its folder, or into a store of the programs that make such links: the blobs of a Hugging Face
cache, or the objects of the git-annex repository that the folder is in. The rule is the same for weights,
configuration and tokenizer. One who made the links can say so, and they are followed wherever they lead.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import FormatError
from ...storage.endings import ending
from .hub_cache import is_blobs

_MAX_LINKS = 40  # in a row, as Linux allows
_NAMES = ("README.md", "merges.txt", "vocab.txt")
_REMEDY = "if you trust it, copy the file into the folder, or convert it with --follow-links"
_SUFFIXES = (".json", ".model", ".tiktoken", ".jinja")  # files that are read whole


def check_links(folder: Path, *, follow: bool = False) -> None:
    """Check the links among a folder's files of configuration and tokenizer.

    Args:
        folder: the checkpoint's or the adapter's.
        follow: whether links may lead out of it.

    Raises:
        FormatError: a link leads out of the folder, or to nothing.
    """
    if not folder.is_dir():
        return
    for path in (*sorted(folder.iterdir()), *sorted(folder.glob("additional_chat_templates/*"))):
        if path.name in _NAMES or ending(path) in _SUFFIXES:
            check_link(path, folder, follow=follow)


def check_link(path: Path, folder: Path, *, follow: bool = False) -> None:
    """Check a file of a folder, which may be a link or lie behind one. A file that is not there passes.

    Args:
        path: the file's.
        folder: that the path begins with.
        follow: whether links may lead out of the folder.

    Raises:
        FormatError: its link leads out of the folder, or to nothing.
    """
    if not follow and not _is_allowed(path, folder):
        problem = f"{path.name!r} is a link to {os.path.realpath(path)}, outside the folder"
        raise FormatError(problem, path=folder, hint=_REMEDY)
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        hint = "git annex get it" if ".git/annex/" in target else "download it again"
        raise FormatError(f"{path.name!r} is a link to {target}, which is not there", path=folder, hint=hint)


def _is_allowed(path: Path, folder: Path) -> bool:
    """Follow a path's links, part by part, to see where each leads before the next is taken."""
    root = here = Path(os.path.realpath(folder))
    parts = list(reversed(path.relative_to(folder).parts))
    links = 0
    while parts:
        part = parts.pop()
        step = here.parent if part == ".." else here / part
        if len(parts) == 1 and parts[0] != ".." and is_blobs(step) and not step.is_relative_to(root):
            return True  # wherever the cache keeps its blobs
        if part != ".." and step.is_symlink():
            links += 1
            if links > _MAX_LINKS:
                return False
            target = Path(os.readlink(step))
            here = Path(target.anchor) if target.is_absolute() else here
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            here = step
    return here.is_relative_to(root) or any(
        here.is_relative_to(folder / ".git" / "annex" / "objects") for folder in (root, *root.parents)
    )
