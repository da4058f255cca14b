"""Models on the hub where a path is expected: fetched into its cache, or read by ranges where headers are enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.hub.address import find_address
from ...formats.progress import Progress, note, notes
from .checks import check_read
from .options import ReadOptions, StrPath

if TYPE_CHECKING:
    from ...formats.gguf.header import GGUFHeader
    from ...formats.hf.tables.further import Mtp
    from ...formats.hub.address import HubAddress
    from ...formats.hub.checkpoint import Shards
    from ...formats.hub.repository import Repository
    from ...formats.ir import Model


def local_path(source: StrPath, *, progress: Progress | None = None) -> Path:
    """The path of a model on this machine: the source itself, or where its files from the hub lie now.

    Args:
        source: a path; or ``org/name``, ``org/name@revision``, ``hf://org/name``, or ``hf://org/name/file.gguf``, whose
            files are downloaded into the hub's cache unless they are there.
        progress: told of what arrives, of pauses after faults, and of the commit.

    Raises:
        FormatError: there is no such repository, revision or file, access is refused, or the network fails for minutes.

    Example:
        >>> from quantmill import local_path
        >>> local_path("models/tiny.gguf").name
        'tiny.gguf'
    """
    address = find_address(source)
    if address is None:
        return Path(source)
    from ...formats.hub.checkpoint import download_checkpoint, download_file

    repository = _open(address, progress)
    path = download_file(repository, address.file) if address.file else download_checkpoint(repository)
    note(progress, f"{address}: commit {repository.commit[:12]}")
    return path


def describe_remote(source: StrPath, *, mtp: Mtp = "keep", progress: Progress | None = None) -> Model | None:
    """A model on the hub from its configuration and headers alone, for plans; None where the source is a path.

    No weight is read, and the vocabulary is not, so the model has none.

    Args:
        source: the model's address.
        mtp: as in ``ReadOptions``.
        progress: called with a ``Note`` for what is assumed, and for what was downloaded.

    Raises:
        PlanError: ``mtp`` is asked of a GGUF file.
        FormatError: as ``local_path``; or it has no safetensors or GGUF files, whose headers can be read by ranges.
    """
    address = find_address(source)
    if address is None:
        return None
    repository = _open(address, progress)
    if address.file:
        from ...formats.gguf.reader import read_gguf

        check_read("gguf", ReadOptions(mtp=mtp))
        path, shards = _gguf(repository, address)
        model = read_gguf(path, elsewhere=shards)
    else:
        from ...formats.hf.shapes import read_described
        from ...formats.hub.checkpoint import open_described

        folder, shards = open_described(repository)
        model = read_described(folder, mtp=mtp, say=notes(progress, important=True), elsewhere=shards)
    _note_transfer(address, repository, shards, progress)
    return model


def remote_headers(source: StrPath, *, progress: Progress | None = None) -> tuple[GGUFHeader, ...] | None:
    """The headers of a GGUF file on the hub, and of its other shards; None where the source is a path.

    Raises:
        FormatError: there is no such file, it is no GGUF file, or the network fails for minutes.
    """
    address = find_address(source)
    if address is None:
        return None
    from ...formats.gguf.reader import read_headers

    repository = _open(address, progress)
    path, shards = _gguf(repository, address)
    headers = read_headers(path, elsewhere=shards)
    _note_transfer(address, repository, shards, progress)
    return headers


def _open(address: HubAddress, progress: Progress | None) -> Repository:
    from ...formats.hub.repository import Repository

    return Repository(address, progress)


def _gguf(repository: Repository, address: HubAddress) -> tuple[Path, Shards]:
    """A GGUF file's path as messages call it, and its shards; the file is on this machine only if it was fetched."""
    from ...formats.hub.checkpoint import Shards, shard_names

    path = Path(str(address))
    return path, Shards(repository, path.parent, shard_names(repository, address.file))


def _note_transfer(address: HubAddress, repository: Repository, shards: Shards, progress: Progress | None) -> None:
    from ...formats.storage.output import human_bytes

    whole = sum(repository.files[name].size for name in shards.files)
    read = shards.transferred + repository.received
    note(progress, f"{address}: {human_bytes(read)} read of {human_bytes(whole)}, commit {repository.commit[:12]}")
