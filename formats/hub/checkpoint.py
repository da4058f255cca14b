"""Which files of a repository a model is: those that are fetched, and those that only their headers are read of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import FormatError, name_list
from ..gguf.shards import siblings_by_name
from ..hf.files.weight_files import PARAMS, find_weight_files
from ..storage.endings import ending
from .remote_file import RemoteFile
from .repository import Repository

# What lies beside the weights and is read or copied: configs, vocabularies, templates, the card and licences.
_BESIDE = (
    "*.json", "*.txt", "*.model", "*.model.v[0-9]*", "*.jinja", "*.tiktoken", "README.md", "LICENSE*", "NOTICE*",
    "*/config.json",
)  # fmt: skip
_DENSE = ("[0-9]*_Dense/model.safetensors", "[0-9]*_Dense/pytorch_model.bin")  # sentence-transformers' modules
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
# Vocabularies, which a plan does not need, and which are much of a small model.
_VOCABULARY = (
    "tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.model.v[0-9]*",
    "*.tiktoken",
)  # fmt: skip
_CONFIGS = ("config.json", "adapter_config.json", PARAMS)  # each checkpoint has one of them
_MAX_BESIDE = 200 << 20  # bytes; far above the largest vocabulary, so a larger one is no file that belongs beside


class Shards:
    """Large files of a repository, read by ranges as if they lay in a folder.

    Args:
        repository: at its commit.
        folder: where they seem to lie, for messages.
        files: their paths in the repository, in one folder.
    """

    def __init__(self, repository: Repository, folder: Path, files: Sequence[str]) -> None:
        self._repository = repository
        self._folder = folder
        self.files = tuple(files)
        self._by_name = {Path(file).name: file for file in files}
        self._opened: dict[str, RemoteFile] = {}

    @property
    def names(self) -> Collection[str]:
        return self._by_name.keys()

    def open(self, name: str) -> RemoteFile:
        """Open a file, the same one each time."""
        if name not in self._opened:
            self._opened[name] = RemoteFile(self._repository, self._by_name[name], self._folder / name)
        return self._opened[name]

    @property
    def transferred(self) -> int:
        """Bytes that were read so far."""
        return sum(file.transferred for file in self._opened.values())


def beside(repository: Repository, *, vocabulary: bool = True) -> list[str]:
    """The names of the files that belong to a checkpoint beside its weights.

    Args:
        repository: the checkpoint's.
        vocabulary: whether the tokenizer's large files are among them.

    Raises:
        FormatError: there is no config.json, which every checkpoint has but those in Mistral's own format.
    """
    if not {*_CONFIGS} & {*repository.files}:
        ggufs = [name for name in repository.files if ending(Path(name)) == ".gguf"]
        hint = f"give {repository.address}/{ggufs[0]}" if ggufs else "is it a model of transformers?"
        problem = f"no config.json, but {name_list(ggufs)}" if ggufs else "no config.json"
        raise FormatError(problem, where=str(repository.address), hint=hint)
    return [
        name
        for name, file in repository.files.items()
        if _is_any(name, _BESIDE) and file.size <= _MAX_BESIDE and (vocabulary or not _is_any(name, _VOCABULARY))
    ]


def weights(repository: Repository, folder: Path) -> list[str]:
    """The names of the files of a checkpoint's weights, chosen as in a folder; the indexes must be in ``folder``.

    Raises:
        FormatError: there are none, or nothing says which of several are the checkpoint's.
    """
    names = [*repository.files]
    extra = [name for name in names if _is_any(name, (*_DENSE, *_ADAPTER))]
    own = "config.json" not in repository.files
    if own and PARAMS not in repository.files:
        return extra
    here = [name for name in names if "/" not in name and not (folder / name).exists()]
    chosen: Sequence[str] = find_weight_files(folder, consolidated=own, elsewhere=here).names
    return [*chosen, *extra]


def download_checkpoint(repository: Repository) -> Path:
    """Bring a whole checkpoint to this machine, without weights in formats that are not read.

    Returns:
        its folder in the hub's cache.

    Raises:
        FormatError: it is no checkpoint, or the network fails for minutes.
    """
    small = beside(repository)
    folder = repository.download(small)
    return repository.download([*small, *weights(repository, folder)])


def download_file(repository: Repository, name: str) -> Path:
    """Bring one file to this machine, and the other shards of its model.

    Raises:
        FormatError: there is no such file, or the network fails for minutes.
    """
    return repository.download(shard_names(repository, name)) / name


def shard_names(repository: Repository, name: str) -> list[str]:
    """The names of all files of a split model, or the file's alone.

    Raises:
        FormatError: there is no such file in the repository.
    """
    if name not in repository.files:
        near = [other for other in repository.files if ending(Path(other)) == ending(Path(name))]
        hint = f"there {'are' if len(near) > 1 else 'is'} {name_list(near)}" if near else "see the repository's page"
        raise FormatError(f"no file {name}", where=str(repository.address), hint=hint)
    return [sibling for sibling in siblings_by_name(name) if sibling in repository.files]


def open_described(repository: Repository, *, vocabulary: bool) -> tuple[Path, Shards]:
    """A checkpoint without its weights: its folder, and its safetensors files to be read by ranges.

    Args:
        repository: the checkpoint's.
        vocabulary: whether the tokenizer's large files are fetched.

    Raises:
        FormatError: it is no checkpoint, or the network fails for minutes.
    """
    small = beside(repository, vocabulary=vocabulary)
    folder = repository.download([*small, *(name for name in repository.files if _is_any(name, _DENSE))])
    away = [name for name in weights(repository, folder) if not (folder / name).is_file()]
    return folder, Shards(repository, folder, away)


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches, ``*`` standing for no slash."""
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
