"""Files of this machine to a repository on the hub: one commit a file, nothing twice, nothing deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..progress import Progress, note, notes
from ..storage.durable import sha256_of_file
from .address import HubAddress, check_repository
from .faults import patiently
from .repository import HubFile


class Destination:
    """A repository to upload to. It is made by the first file, private unless ``public``.

    Args:
        name: ``org/name``.
        public: make it public; a repository that exists stays as it is.
        progress: told of uploads, and of pauses after faults.

    Raises:
        PlanError: the name is none. FormatError: there is no token, or the network fails for minutes.
    """

    def __init__(self, name: str, *, public: bool = False, progress: Progress | None = None) -> None:
        from huggingface_hub import HfApi

        self.address = HubAddress(check_repository(name))
        self.public = public
        self.progress = progress
        self._api = HfApi(library_name="quantmill")
        self._call(self._api.whoami)
        self.exists: bool = self._call(lambda: self._api.repo_exists(self.address.repo))
        self._there = self._listed() if self.exists else {}

    def has(self, path: Path, name: str, sha256: str | None = None) -> bool:
        """Whether the repository holds this very file.

        Args:
            path: the file here.
            name: its name there.
            sha256: of the file, in hex; None to read it where that is needed.
        """
        there = self._there.get(name)
        if there is None or there.size != path.stat().st_size:
            return False
        if there.sha256:
            return there.sha256 == (sha256 or sha256_of_file(path))
        return there.blob == git_blob(path)

    def put(self, path: Path, name: str, sha256: str | None = None) -> bool:
        """Upload a file unless the repository holds it; False if it does.

        Raises:
            FormatError: the hub refuses, or the network fails for minutes. What was uploaded stays.
        """
        if self.has(path, name, sha256):
            return False
        if not self.exists:
            self._call(lambda: self._api.create_repo(self.address.repo, private=not self.public, exist_ok=True))
            self.exists = True
            note(self.progress, f"{self.address}: made, {'public' if self.public else 'private'}")
        self._call(
            lambda: self._api.upload_file(
                path_or_fileobj=str(path), path_in_repo=name, repo_id=self.address.repo,
                commit_message=f"{'Replace' if name in self._there else 'Add'} {name}",
            )
        )  # fmt: skip
        note(self.progress, f"{self.address}: {name} uploaded")
        return True

    def check(self, files: Mapping[str, Path]) -> None:
        """Check that the repository holds these files as they are here.

        Raises:
            FormatError: one is missing there, or another.
        """
        self._there = self._listed()
        for name, path in files.items():
            if not self.has(path, name):
                problem = f"{name} is not there as it is in {path}"
                raise FormatError(problem, where=str(self.address), hint="run the same command again")

    @property
    def others(self) -> list[str]:
        """The names of the files that are there already."""
        return sorted(self._there)

    def _listed(self) -> dict[str, HubFile]:
        from huggingface_hub import RepoFile

        entries = self._call(lambda: list(self._api.list_repo_tree(self.address.repo, recursive=True)))
        return {entry.path: HubFile.of(entry) for entry in entries if isinstance(entry, RepoFile)}

    def _call(self, call: Callable[[], Any]) -> Any:
        with _no_bars():
            return patiently(call, self.address, notes(self.progress, important=True))


@contextmanager
def _no_bars() -> Iterator[None]:
    """Let huggingface_hub draw no progress bars of its own."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def git_blob(path: Path) -> str:
    """The name that git gives a file's content, in hex: how the hub tells small files apart.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     git_blob(Path(file.name))
        'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
