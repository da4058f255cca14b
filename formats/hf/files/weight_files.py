"""Which files of a folder hold a checkpoint's weights, and what lies beside them unread.

The order is transformers' (``_get_resolved_checkpoint_files`` of modeling_utils.py, 5.23): the file that config.json
names, then ``model.safetensors``, its index, ``pytorch_model.bin``, its index. A folder with none of them, which it
refuses, is read where only one reading is possible: one series of shards, one variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from ...errors import FormatError, name_list
from ...json_text import read_json
from .links import check_link

Say = Callable[[str], object]

_NAMED = "transformers_weights"  # config.json's key for the file to load
_STEMS = (("safetensors", "model"), ("bin", "pytorch_model"))
_CONSOLIDATED = (("safetensors", "consolidated"),)  # of Mistral's own format
PARAMS = "params.json"  # its config.json
# AutoGPTQ named its files like the third in 2023: gptq_model-4bit-128g.safetensors.
_MORE_WITHOUT_INDEX = (("safetensors", "gptq_model"),)
_SERIES = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)", re.ASCII)
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors", re.ASCII)  # torch.distributed.checkpoint's
_ADAPTER = "adapter_model.*"
# Names that weights have, of this program's formats and of others'.
_MODEL_FILES = (
    "*.safetensors", "*.safetensors.index*.json", "pytorch_model*.bin", "pytorch_model.bin.index*.json", _ADAPTER,
    "consolidated*.pth", "tf_model*.h5", "flax_model*.msgpack", "model*.ckpt",
)  # fmt: skip
_MAX_FILE_NAME = 255  # bytes; the limit of file systems


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a checkpoint's weights.

    Args:
        kind: ``safetensors`` or ``bin``.
        names: of the files, in the order of reading.
        index: tensor -> file, empty where there is no index.
        index_name: the index's own name, or empty.
        remark: what was assumed in choosing them, or empty.
    """

    kind: str
    names: Sequence[str]
    index: Mapping[str, str] = field(default_factory=dict)
    index_name: str = ""
    remark: str = ""


@dataclass(frozen=True)
class _Folder:
    """A checkpoint's folder: what lies in it, and what does elsewhere."""

    path: Path
    elsewhere: Collection[str] = ()

    @cached_property
    def names(self) -> list[str]:
        there = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        return sorted({*there, *self.elsewhere})

    def has(self, name: str) -> bool:
        return name in self.elsewhere or (self.path / name).is_file()


def find_weight_files(
    folder: Path,
    say: Say | None = None,
    *,
    consolidated: bool = False,
    follow_links: bool = False,
    elsewhere: Collection[str] = (),
) -> WeightFiles:
    """Find the files that hold a checkpoint's weights, all of which are there.

    Args:
        folder: the checkpoint's.
        say: called with a line where other weights lie beside those that are read, or something was assumed.
        consolidated: find those of Mistral's own format, instead of Hugging Face's.
        follow_links: whether links may lead out of the folder.
        elsewhere: names of the folder's files that do not lie on this machine; indexes must.

    Raises:
        FormatError: there are none, one is missing, or nothing says which of several are the checkpoint's.
    """
    listed = _Folder(folder, elsewhere)
    found = _choose_consolidated(listed) if consolidated else _choose(listed)
    for name in found.names:
        if name not in elsewhere:
            check_link(folder / name, folder, follow=follow_links)
    if say is not None:
        chosen = {*found.names, found.index_name}
        aside = [name for name in _model_files(listed.names) if name not in chosen]
        line = f"{folder}: reads {found.index_name or _described(listed, found.names)}"
        line += f", {found.remark}" if found.remark else ""
        line += f"; left aside: {_described(listed, aside)}" if aside else ""
        if found.remark or aside:
            say(line)
    return found


def has_consolidated(folder: Path, elsewhere: Collection[str] = ()) -> bool:
    """Whether there are weights in Mistral's own format."""
    return any(
        name.startswith("consolidated") and name.endswith(".safetensors") for name in _Folder(folder, elsewhere).names
    )


def has_weights(folder: Path) -> bool:
    """Whether there are files of weights, whatever their names, and not only an index of them."""
    listed = _Folder(folder)
    names = _model_files(listed.names)
    return any(not name.endswith(".json") for name in names) or _named_by_config(listed) is not None


def _model_files(names: Sequence[str]) -> list[str]:
    return [
        name
        for name in names
        if not name.startswith(".") and any(fnmatchcase(name, pattern) for pattern in _MODEL_FILES)
    ]


def _described(folder: _Folder, aside: Sequence[str]) -> str:
    """The names of files, a series as one, and what is strange about them."""
    words = name_list(list(dict.fromkeys(_SERIES.sub(r"\1-*-of-\2\3", name) for name in aside)))
    if not all(map(folder.has, aside)):
        words += " (links to nothing among them)"
    if any(fnmatchcase(name, _ADAPTER) for name in aside):
        words += " (an adapter, which PEFT adds on loading: merge it first, or convert it by itself)"
    return words


def _choose(folder: _Folder) -> WeightFiles:
    if name := next(filter(_DISTRIBUTED.fullmatch, folder.names), None):
        hint = "load it in transformers and call save_pretrained"
        raise FormatError(f"{name} is part of a distributed checkpoint", path=folder.path, hint=hint)
    if found := _named_by_config(folder) or _by_stems(folder, _STEMS, _MORE_WITHOUT_INDEX):
        return found
    hint = "model.safetensors, its shards, or pytorch_model.bin must be in the folder"
    if has_consolidated(folder.path, folder.elsewhere) and folder.has(PARAMS):
        hint = "--mistral-format reads the weights in Mistral's own format that are there"
    if others := _model_files(folder.names):
        raise FormatError(f"no weights found, but {_described(folder, others)}", path=folder.path, hint=hint)
    raise FormatError("no weights found", path=folder.path, hint=hint)


def _choose_consolidated(folder: _Folder) -> WeightFiles:
    if found := _by_stems(folder, _CONSOLIDATED):
        return found
    hint = "consolidated.safetensors or its shards must be in the folder"
    if old := [name for name in folder.names if fnmatchcase(name, "consolidated*.pth")]:
        hint = f"{name_list(old)}: only safetensors are read; convert the model's Hugging Face folder"
    raise FormatError("no weights found in Mistral's own format", path=folder.path, hint=hint)


def _by_stems(
    folder: _Folder, stems: Sequence[tuple[str, str]], without_index: Sequence[tuple[str, str]] = ()
) -> WeightFiles | None:
    """The first file or index by the stems of names, else the first files without an index; None if there are none."""
    for kind, stem in stems:
        if folder.has(f"{stem}.{kind}"):
            return WeightFiles(kind, [f"{stem}.{kind}"])
        index = f"{stem}.{kind}.index.json"
        if folder.has(index):
            return _indexed(folder, kind, index)
    for kind, stem in (*stems, *without_index):
        names = [n for n in folder.names if fnmatchcase(n, f"{stem}*.{kind}") and folder.has(n)]
        if names:
            return _without_index(folder, kind, stem, names)
    return None


def _named_by_config(folder: _Folder) -> WeightFiles | None:
    """The file that config.json names as the weights, which few checkpoints do; None if it names none."""
    path = folder.path / "config.json"
    name = read_json(path).get(_NAMED)
    if name is None:
        return None
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        problem = "is not the name of a safetensors file or its index"
        raise FormatError(problem, path=path, where=_NAMED)
    _check_name(name, path, _NAMED)
    if not folder.has(name):
        raise FormatError(f"{name} is not there", path=path, where=_NAMED, hint="download it into this folder")
    if name.endswith(".json"):
        return _indexed(folder, "safetensors", name)
    return WeightFiles("safetensors", [name], remark="which config.json names")


def _indexed(folder: _Folder, kind: str, index_name: str) -> WeightFiles:
    path = folder.path / index_name
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise FormatError("is not a map from tensors to files", path=path, where="weight_map")
    for name, shard in index.items():
        _check_name(shard, path, name)
    names = _all_there(folder, sorted(set(index.values())), index_name)
    return WeightFiles(kind, names, index, index_name)


def _check_name(name: str, path: Path, where: str) -> None:
    """Refuse a name that a file from the internet gives if it leads out of the folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise FormatError(f"{name!r} is outside the folder", path=path, where=where)
    if len(name.encode()) > _MAX_FILE_NAME:
        raise FormatError(f"{name[:40]!r}... is not a valid file name", path=path, where=where)


def _without_index(folder: _Folder, kind: str, stem: str, names: Sequence[str]) -> WeightFiles:
    """One series of shards; else one variant; else all files, which together must hold each tensor once."""
    series = sorted({(match[1], match[2], match[3]) for name in names if (match := _SERIES.fullmatch(name))})
    variants = [name for name in names if name.startswith(f"{stem}.")]
    unclear = ""
    if len(series) > 1:
        unclear = f"{len(series)} series of shards, {_described(folder, names)}"
    elif not series and len(variants) > 1:
        unclear = f"{len(variants)} variants, {name_list(variants)}"
    if unclear:
        index = f"get {stem}.{kind}.index.json, or " if series else ""
        hint = f"{index}move what you do not want out of the folder"
        raise FormatError(f"{unclear}, and nothing says which to read", path=folder.path, hint=hint)
    if series:
        before, count, after = series[0]
        wanted = [f"{before}-{i + 1:05d}-of-{count}{after}" for i in range(int(count))]
        remark = _variant_remark(before.removeprefix(stem).lstrip(".")) or "shards without an index"
        return WeightFiles(kind, _all_there(folder, wanted, names[0]), remark=remark)
    if variants:
        variant = variants[0][len(stem) + 1 : -len(kind) - 1]
        return WeightFiles(kind, variants, remark=_variant_remark(variant))
    return WeightFiles(kind, names, remark=f"{len(names)} files without an index" if len(names) > 1 else "")


def _variant_remark(variant: str) -> str:
    return f"the variant {variant}, which transformers reads when asked for it" if variant else ""


def _all_there(folder: _Folder, shards: Sequence[str], origin: str) -> Sequence[str]:
    missing = [shard for shard in shards if not folder.has(shard)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"missing shard {missing[0]}{more}, of the {len(shards)} that {origin} names"
        raise FormatError(problem, path=folder.path, hint="download what is missing into this folder")
    return shards
