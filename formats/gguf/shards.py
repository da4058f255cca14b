"""Split models: the names of their files, and how the files that belong together are found and checked.

Source: ``llama_split_path`` and ``llama_split_prefix`` (llama.cpp), the loading of splits in llama-model-loader.cpp,
and tools/gguf-split.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import FormatError
from ..ir import Metadata, Value, ValueType
from ..storage.endings import without_ending
from .header import GGUFHeader

SPLIT_NO = "split.no"  # uint16, from 0
SPLIT_COUNT = "split.count"  # uint16; 0 in a file that llama-gguf-split merged
SPLIT_TENSORS_COUNT = "split.tensors.count"  # int32, of all shards together
FRAME = "quantmill.split.frame"  # uint8[]: see split.py
MAX_SHARDS = 65535  # split.count is a uint16

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.DOTALL | re.ASCII | re.IGNORECASE)


def shard_path(prefix: str | Path, index: int, count: int, ending: str = ".gguf") -> Path:
    """The name of a shard, as llama.cpp expects it.

    Args:
        ending: as the other shards spell it; llama.cpp finds no shards that are named ``.GGUF``.

    Example:
        >>> from quantmill.formats.gguf.shards import shard_path
        >>> shard_path("model", 0, 3).name
        'model-00001-of-00003.gguf'
    """
    return Path(f"{prefix}-{index + 1:05d}-of-{count:05d}{ending}")


def shard_prefix(path: Path) -> str:
    """The file name without the shard's number and count, or without ``.gguf`` if it has none."""
    match = _NAME.fullmatch(path.name)
    return match[1] if match else without_ending(path.name, ".gguf")


def siblings_by_name(name: str) -> tuple[str, ...]:
    """The names of all files of the set that a name belongs to; the name alone if it is not a shard's.

    Example:
        >>> from quantmill.formats.gguf.shards import siblings_by_name
        >>> siblings_by_name("Q8_0/tiny-00002-of-00002.gguf")
        ('Q8_0/tiny-00001-of-00002.gguf', 'Q8_0/tiny-00002-of-00002.gguf')
    """
    path = Path(name)
    match = _NAME.fullmatch(path.name)
    if match is None:
        return (name,)
    count = int(match[3])
    return tuple(path.with_name(shard_path(match[1], i, count, match[4]).name).as_posix() for i in range(count))


def set_size(path: Path) -> int:
    """The bytes of all existing files of the set that a file belongs to by its name; 0 if the name is not a shard's."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return 0
    siblings = (path.with_name(shard_path(match[1], i, int(match[3]), match[4]).name) for i in range(int(match[3])))
    return sum(sibling.stat().st_size for sibling in siblings if sibling.is_file())


def split_count(metadata: Metadata) -> int:
    """The number of files of the model; 1 if it is not split."""
    value = metadata.get(SPLIT_COUNT)
    return max(1, value.data) if value is not None and isinstance(value.data, int) else 1


def without_split(metadata: Metadata) -> dict[str, Value]:
    """The keys of the model, in order, without those of shards."""
    return {key: value for key, value in metadata.items() if not key.startswith("split.") and key != FRAME}


def with_split(metadata: Metadata, index: int, count: int, n_tensors: int, *, count_last: bool) -> dict[str, Value]:
    """The keys of a shard: its own, then those of its place in the set.

    Args:
        count_last: the order of tools/gguf-split, which sets the count last; llama-quantize sets it in second place.
    """
    keys = {
        SPLIT_NO: Value(ValueType.UINT16, index),
        SPLIT_COUNT: Value(ValueType.UINT16, count),
        SPLIT_TENSORS_COUNT: Value(ValueType.INT32, n_tensors),
    }
    if count_last:
        keys[SPLIT_COUNT] = keys.pop(SPLIT_COUNT)
    return {key: value for key, value in metadata.items() if not key.startswith("split.")} | keys


def sibling_paths(header: GGUFHeader, elsewhere: Collection[str] = ()) -> tuple[Path, ...]:
    """Find the files of the set that a file belongs to, in order.

    Args:
        header: the file's.
        elsewhere: names of files that do not lie on this machine.

    Raises:
        FormatError: the file's name and its keys disagree, or a file is missing.
    """
    path, count = header.path, split_count(header.metadata)
    index = _index(header)
    match = _NAME.fullmatch(path.name)
    if match is None or (int(match[2]), int(match[3])) != (index + 1, count):
        wanted = shard_path(shard_prefix(path), index, count).name
        raise FormatError(
            f"this is shard {index + 1} of {count}, and its name does not say so",
            path=path,
            hint=f"rename it to {wanted}; shards are found by their names",
        )
    paths = tuple(path.with_name(shard_path(match[1], i, count, match[4]).name) for i in range(count))
    missing = [sibling.name for sibling in paths if sibling.name not in elsewhere and not sibling.is_file()]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FormatError(
            f"{len(missing)} of the {count} shards of this model missing: {listed}",
            path=path,
            hint="download or copy them to the same folder",
        )
    return paths


def check_set(headers: Sequence[GGUFHeader]) -> None:
    """Check that files, in this order, are the shards of one model.

    Raises:
        FormatError: they are not.
    """
    for i, header in enumerate(headers):
        if split_count(header.metadata) != len(headers) or _index(header) != i:
            raise FormatError(
                f"is shard {_index(header) + 1} of {split_count(header.metadata)} by its keys; "
                f"expected {i + 1} of {len(headers)}",
                path=header.path,
                hint=f"it belongs to another set than {headers[0].path.name}",
            )
        if header.byteorder != headers[0].byteorder:
            raise FormatError("its byte order is not that of the first shard", path=header.path, hint=_OTHER_SET)
    total = sum(len(header.tensors) for header in headers)
    seen: dict[str, Path] = {}
    for header in headers:
        promised = header.metadata.get(SPLIT_TENSORS_COUNT)
        if promised is not None and promised.data != total:
            raise FormatError(
                f"must be {total}, the tensors of the {len(headers)} shards; is {promised.data}",
                path=header.path,
                where=SPLIT_TENSORS_COUNT,
                hint=_OTHER_SET,
            )
        for entry in header.tensors:
            if entry.name in seen:
                raise FormatError(
                    f"is also in {seen[entry.name].name}", path=header.path, where=entry.name, hint=_OTHER_SET
                )
            seen[entry.name] = header.path


_OTHER_SET = "shards of different models, or of one model split twice?"


def _index(header: GGUFHeader) -> int:
    value: Mapping[str, Value] | Value | None = header.metadata.get(SPLIT_NO)
    if not isinstance(value, Value) or not isinstance(value.data, int):
        raise FormatError("has a split.count but no split.no", path=header.path, hint="the file is damaged")
    return int(value.data)
