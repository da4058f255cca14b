"""A release's folder to a repository on the hub: what belongs to it, and nothing that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import FormatError
from ....formats.progress import Progress, note
from ....formats.storage.durable import sha256_of_file
from ....formats.storage.endings import ending
from ..options import StrPath
from .checkpoint_folders import checked_folders
from .checkpoints import sibling_name
from .manifest import NAME, Manifest, read_manifest
from .ollama_file import MODELFILE

if TYPE_CHECKING:
    from ....formats.hub.upload import Destination

_LAST = ("SHA256SUMS", NAME, "README.md")  # which say what is there, so they come when it is


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be.

    Args:
        repository: ``org/name``.
        uploaded: names of the files that were uploaded now.
        kept: names of those that were there already.
        others: names of files of the repository that belong to no release of ours; they stay.
        made: whether the repository was made now.
        beside: the same of each checkpoint of the release, in repositories of their own.

    Example:
        >>> from quantmill import Pushed
        >>> Pushed("me/tiny-GGUF", ("README.md",), (), (), made=True).repository
        'me/tiny-GGUF'
    """

    repository: str
    uploaded: tuple[str, ...]
    kept: tuple[str, ...]
    others: tuple[str, ...]
    made: bool
    beside: tuple[Pushed, ...] = ()


def push(
    folder: StrPath, repository: str, *, public: bool = False, dry_run: bool = False, progress: Progress | None = None
) -> Pushed:
    """Upload a finished release, one commit a file. Nothing is deleted, and what is there is not uploaded again.

    Its checkpoints for transformers and vLLM go to repositories of their own: beside ``me/Tiny-GGUF`` is
    ``me/Tiny-AWQ``.

    Args:
        folder: a folder that ``release`` made.
        repository: ``org/name``; it is made if it does not exist.
        public: make it public if it is made; else it is private.
        dry_run: find out what would be uploaded, and upload nothing.
        progress: told of uploads, and of pauses after faults.

    Raises:
        FormatError: the folder holds no finished release, or a file of it was changed; the hub refuses, or the network
            fails for minutes, and the same call goes on later. PlanError: the repository's name is none.

    Example:
        >>> from quantmill import push
        >>> push("no-such-folder", "me/tiny-GGUF")
        Traceback (most recent call last):
        ...
        quantmill.formats.errors.FormatError: no-such-folder: holds no finished release (quantmill release makes one)
    """
    folder = Path(folder)
    if not (folder / NAME).is_file():
        raise FormatError("holds no finished release", path=folder, hint="quantmill release makes one")
    manifest = read_manifest(folder / NAME)
    for name, facts in manifest.files.items():
        if not (folder / name).is_file() or sha256_of_file(folder / name) != facts.sha256:
            raise FormatError("is not the file that manifest.json lists", path=folder / name, hint="make it again")
    from ....formats.hub.upload import Destination

    to = Destination(repository, public=public, progress=progress)
    checked_folders(folder, manifest)
    done = push_files(to, folder, manifest, dry_run=dry_run)
    return replace(done, beside=tuple(push_checkpoints(to, folder, manifest, dry_run=dry_run)))


def open_destination(repository: str | None, *, public: bool, progress: Progress | None) -> Destination | None:
    """The repository that a release goes to; None where none is named."""
    if repository is None:
        return None
    from ....formats.hub.upload import Destination

    return Destination(repository, public=public, progress=progress)


def push_files(to: Destination, folder: Path, manifest: Manifest, *, dry_run: bool = False) -> Pushed:
    """Upload what belongs to a release, and check that all of it is there."""
    beside = sorted(path.name for path in folder.iterdir() if ending(path) == ".png" or path.name == MODELFILE)
    imatrix = manifest.imatrix.file if manifest.imatrix is not None else ""
    names = [*manifest.files, *([imatrix] if (folder / imatrix).is_file() and imatrix else []), *beside, *_LAST]
    files = {name: folder / name for name in names}
    return _put_all(to, files, {name: facts.sha256 for name, facts in manifest.files.items()}, dry_run)


def push_checkpoints(to: Destination, folder: Path, manifest: Manifest, *, dry_run: bool = False) -> list[Pushed]:
    """Upload the checkpoints of a release, each to a repository of its own.

    Args:
        to: where the release goes, whose name theirs follow.
        folder: the release's.
    """
    from ....formats.hub.upload import Destination

    done = []
    for name, facts in manifest.checkpoints.items():
        repository = sibling_name(to.address.repo, name)
        place = Destination(repository, public=to.public, progress=to.progress)
        there = folder.resolve().with_name(facts.folder)
        files = {file: there / file for file in (*facts.files, "README.md")}
        sums = {file: about.sha256 for file, about in facts.files.items()}
        done.append(_put_all(place, files, sums, dry_run))
    return done


def _put_all(to: Destination, files: Mapping[str, Path], known: Mapping[str, str], dry_run: bool) -> Pushed:
    """Upload files, and check that all of them are there.

    Args:
        known: SHA-256 of some of them, by name.
    """
    made = not to.exists
    others = tuple(name for name in to.others if name not in files and not name.startswith("."))
    missing = [name for name in files if not to.has(files[name], name, known.get(name))]
    if not dry_run:
        for name in missing:
            to.put(files[name], name, known.get(name))
        to.check(files)
    if others:
        note(to.progress, f"{to.address}: {len(others)} other files stay as they are", important=True)
    return Pushed(to.address.repo, tuple(missing), tuple(name for name in files if name not in missing), others, made)
