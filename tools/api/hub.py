"""Models on the hub where a path is expected: fetched into its cache, or read by ranges where headers are enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.hub.address import find_address
from ...formats.ir import Model
from ...formats.progress import Progress, note, notes
from ...formats.storage.endings import ending
from .checks import check_read, refuse
from .options import ReadOptions, StrPath

if TYPE_CHECKING:
    from ...formats.gguf.header import GGUFHeader
    from ...formats.hf.tables.further import Mtp
    from ...formats.hub.address import HubAddress
    from ...formats.hub.checkpoint import Shards
    from ...formats.hub.repository import Repository
    from ...formats.storage.source import Elsewhere


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


@contextmanager
def source_at_hand(
    source: StrPath | Model, output: StrPath | None, *, arrive: bool, stream: bool, progress: Progress | None = None
) -> Iterator[tuple[Path | Model, Elsewhere | None]]:
    """A model's path on this machine within the block, and those of its shards that are still arriving.

    Args:
        source: as ``local_path`` takes it, or a model.
        output: what is written, beside which shards lie that do not stay.
        arrive: whether the work may begin while later shards are still arriving.
        stream: keep at most two shards on disk.
        progress: as for ``local_path``.

    Raises:
        PlanError: nothing can be streamed here. FormatError: as ``local_path``.
    """
    address = None if isinstance(source, Model) else find_address(source)
    if stream:
        refuse({"--stream": address is None}, "the model is on this machine")
        refuse({"--stream": not arrive or output is None}, "the weights are read more than once")
    if isinstance(source, Model) or address is None:
        yield source if isinstance(source, Model) else Path(source), None
        return
    if address.file or not arrive:
        refuse({"--stream": stream}, "one file is downloaded whole")
        yield local_path(source, progress=progress), None
        return
    from ...formats.hub.arriving import Arrivals
    from ...formats.hub.checkpoint import beside, weights

    repository = _open(address, progress)
    small = beside(repository)
    folder = repository.download(small)
    names = [name for name in weights(repository, folder) if stream or not (folder / name).is_file()]
    if not names or any("/" in name or ending(name) != ".safetensors" for name in names):
        refuse({"--stream": stream}, "only checkpoints of safetensors files arrive piece by piece")
        yield repository.download([*small, *names]), None
        return
    note(progress, f"{address}: commit {repository.commit[:12]}, {len(names)} files arrive")
    spare = None
    if stream and output is not None:
        spare = Path(output).with_name(f".{Path(output).name}.shards")
    with Arrivals(repository, folder, names, spare) as arrivals:
        yield folder, arrivals


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

        folder, shards = open_described(repository, vocabulary=False)
        model = read_described(folder, mtp=mtp, say=notes(progress, important=True), elsewhere=shards)
    _note_transfer(address, repository, shards, progress)
    return model


def described_folder(source: StrPath, *, progress: Progress | None = None) -> tuple[Path, Elsewhere | None]:
    """A checkpoint's folder, of which the weights may be on the hub: their headers are read by ranges.

    Raises:
        FormatError: as ``local_path``.
    """
    address = find_address(source)
    if address is None or address.file:
        return local_path(source, progress=progress), None
    from ...formats.hub.checkpoint import open_described

    return open_described(_open(address, progress), vocabulary=True)


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
