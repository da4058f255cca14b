"""A repository of a model at one commit: what it holds, and its files on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..hf.files.hub_cache import blob_of, link_blob, snapshot_of
from ..progress import Progress, RowsDone, WorkEnded, WorkStarted, emit, note, notes
from ..storage.durable import sha256_of_file
from .address import HubAddress
from .faults import in_one_line, patiently
from .resuming import download

if TYPE_CHECKING:
    from huggingface_hub import RepoFile


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Args:
        name: its path in the repository.
        size: in bytes.
        sha256: in hex, of a large file; empty for a small one, whose hash the hub does not tell.
        blob: the name that git gives a small file's content.
    """

    name: str
    size: int
    sha256: str = ""
    blob: str = ""

    @classmethod
    def of(cls, entry: RepoFile) -> HubFile:
        """A file as the hub lists it."""
        return cls(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)


class Repository:
    """A repository at one commit, which stays the same even if the revision moves meanwhile.

    Args:
        address: which; its ``file`` does not matter here.
        progress: told of bytes that arrive, of pauses after faults and of what a person should know.

    Raises:
        FormatError: there is no such repository or revision, access is refused, or the network fails.
    """

    def __init__(self, address: HubAddress, progress: Progress | None = None) -> None:
        from huggingface_hub import HfApi, constants

        self.address = address
        self.progress = progress
        self.received = 0  # bytes of files that were downloaded
        self._api = HfApi(library_name="quantmill")
        self.offline = constants.is_offline_mode()
        if self.offline:
            self.commit = self._cached_snapshot().name
            note(progress, f"{address}: offline: commit {self.commit[:12]}, as it is in the cache", important=True)
        else:
            self.commit = self._call(lambda: self._api.model_info(address.repo, revision=address.revision)).sha or ""
            # The cache keeps which commit it was, for offline runs. This call alone would take an old one from there
            # where the hub cannot be reached.
            self._call(lambda: self._api.resolve_revision(address.repo, revision=address.revision))

    @cached_property
    def files(self) -> Mapping[str, HubFile]:
        """The files by their names, as the hub lists them; offline, those of the cache."""
        if self.offline:
            folder = self._cached_snapshot()
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            return {name: HubFile(name, (folder / name).stat().st_size) for name in names}
        from huggingface_hub import RepoFile

        def listed() -> list[Any]:
            return list(self._api.list_repo_tree(self.address.repo, recursive=True, revision=self.commit))

        return {entry.path: HubFile.of(entry) for entry in self._call(listed) if isinstance(entry, RepoFile)}

    def download(self, names: Collection[str]) -> Path:
        """Bring files to this machine, into the hub's own cache.

        Args:
            names: of files of the repository; those in the cache already are not fetched again.

        Returns:
            the snapshot's folder, in which the files lie under their names.

        Raises:
            FormatError: the network fails for minutes, the disk is full, or a file is not what the hub says.
        """
        missing = [self.files[name] for name in names if not self.offline and self._cached(name) is None]
        emit(self.progress, WorkStarted(self.address.repo, sum(file.size for file in missing)))
        try:
            for file in missing:
                self._fetch(file)
        finally:
            emit(self.progress, WorkEnded())
        return self._cached_snapshot() if self.offline else self._snapshot(names)

    def _snapshot(self, names: Collection[str]) -> Path:
        """The folder of the snapshot, with the listing that tells offline runs what belongs to it."""
        from huggingface_hub import snapshot_download

        patterns = [escape(name) for name in names]
        return Path(
            self._call(
                lambda: snapshot_download(
                    self.address.repo, revision=self.commit, allow_patterns=patterns, tqdm_class=silent_tqdm()
                )
            )
        )

    def _cached_snapshot(self) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    self.address.repo, revision=self.address.revision, allow_patterns=["config.json"],
                    local_files_only=True, tqdm_class=silent_tqdm(),
                )
            )  # fmt: skip
        except Exception as error:
            raise in_one_line(error, self.address) from error

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.address.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def download_to(self, folder: Path, name: str) -> Path:
        """Bring one file to a folder of this machine instead of the hub's cache; its path. Errors as ``download``."""
        return self._fetch(self.files[name], folder)

    def _fetch(self, file: HubFile, folder: Path | None = None) -> Path:
        """Download a file, and check the hash of a large one; a wrong one is downloaded once more."""
        for again in (False, True):
            path = self._call(lambda force=again: self._downloaded(file, force, folder))  # type: ignore[misc]
            self.received += file.size
            if not file.sha256 or sha256_of_file(path) == file.sha256:
                return Path(path)
            note(self.progress, f"{self.address}: {file.name} arrived damaged", important=True)
            path.resolve().unlink()  # nobody may take it for the file
        hint = "run the same command again; if it stays so, the repository is damaged"
        raise FormatError(
            f"{file.name} is not the file that the hub lists: its hash is another", where=str(self.address), hint=hint
        )

    def _downloaded(self, file: HubFile, force: bool, folder: Path | None) -> Path:
        from huggingface_hub import hf_hub_download

        if file.sha256:
            return self._resumed(file, force, folder)
        return Path(
            hf_hub_download(
                self.address.repo, file.name, revision=self.commit, force_download=force, library_name="quantmill",
                local_dir=folder, tqdm_class=told_tqdm(self.progress),
            )
        )  # fmt: skip

    def _resumed(self, file: HubFile, force: bool, folder: Path | None) -> Path:
        """Download a large file, from where a killed run stopped."""
        from huggingface_hub import constants, hf_hub_url

        snapshot = snapshot_of(Path(constants.HF_HUB_CACHE), self.address.repo, self.commit)
        path = blob_of(snapshot, file.sha256) if folder is None else folder / file.name
        if force or not (path.is_file() and path.stat().st_size == file.size):
            url = hf_hub_url(self.address.repo, file.name, revision=self.commit, endpoint=constants.ENDPOINT)
            download(url, path, file.sha256, file.size, self._call, self.progress)
        if folder is not None:
            return path
        link_blob(path, snapshot / file.name)
        return snapshot / file.name

    def _call(self, call: Callable[[], Any]) -> Any:
        return patiently(call, self.address, notes(self.progress, important=True))


def silent_tqdm() -> type[Any]:
    """A progress bar for huggingface_hub that shows nothing."""
    return told_tqdm(None)


def told_tqdm(progress: Progress | None) -> type[Any]:
    """A progress bar for huggingface_hub that hands what arrives to ``progress``, and shows nothing itself."""
    from huggingface_hub.utils.tqdm import tqdm

    class Told(tqdm):  # type: ignore[misc, type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if n:
                emit(progress, RowsDone(int(n)))
            return None

    return Told
