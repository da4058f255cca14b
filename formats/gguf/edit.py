"""Edit the metadata of a GGUF file without changing its tensors.

A crash at any point leaves either the old or the new file, whole. GGUF puts its data right behind the header (the
padding is at most one alignment, and readers compute where it ends), so there is no room to build a second header in.
Two ways remain, and each edit takes the first that is possible:

- In place, when the new header ends at the same padded place *and* everything that changes lies in one 512-byte sector:
  one write of at most a sector is what disks promise to do wholly or not at all. This is the usual token id, number,
  flag, or string of the same length, and it costs nothing on a 70 GB file.
- Otherwise a new file beside the old one (the data copied inside the kernel, shared where the file system can) and an
  atomic rename. A longer string shifts every byte behind it over many sectors: writing that in place, even where the
  padding has room, could be torn, and an undo journal would help only those who know of it; llama.cpp does not.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, OutputError, QuantmillError
from ..ir import Metadata, Value, ValueType
from ..storage.output import Output, atomic_output
from .header import GGUFHeader
from .keys import GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE, KeyType, is_token_id, make_value, type_name
from .loadable import check_metadata
from .reader import read_header
from .wire import DEFAULT_ALIGNMENT, MAGIC, encode_number, encode_string, encode_value

SECTOR = 512  # bytes a disk writes atomically: the least any block device promises
_COPY_CHUNK = 64 << 20
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)

# Arrays with one entry for each token.
_PER_TOKEN = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")


@dataclass(frozen=True)
class Change:
    """A key's old and new value: ``old`` is None for a new key, ``new`` for one that is removed."""

    key: str
    old: Value | None
    new: Value | None


@dataclass(frozen=True)
class Edit:
    """A planned edit: the new header's bytes, whether they differ, and whether they can be written in place."""

    header: GGUFHeader
    changes: tuple[Change, ...]
    new_header: bytes
    changed: bool
    in_place: bool


def set_metadata(
    path: str | Path,
    changes: Mapping[str, Value],
    removals: Iterable[str] = (),
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Edit:
    """Change, add or remove metadata keys of a GGUF file. Everything else in the file stays as it is.

    Args:
        path: a GGUF file, or one shard of a split model.
        changes: full keys and their new values; new keys are added at the end.
        removals: full keys to remove.
        force: skip the checks of ``check_value``.
        dry_run: plan and check the edit, but do not write.

    Returns:
        the edit: what changes, and whether it is (or could be) written in place.

    Raises:
        QuantmillError: a key to remove does not exist, or a value is one that no loader could use.
        FormatError: the file is damaged.
        OutputError: the file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_gguf, write_gguf
        >>> from quantmill.formats.examples import tiny_llama
        >>> from quantmill.formats.gguf.edit import set_metadata
        >>> from quantmill.formats.gguf.keys import typed
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "tiny.gguf")
        ...     _ = write_gguf(path, tiny_llama())
        ...     edit = set_metadata(path, {"llama.context_length": typed("llama.context_length", 1024)})
        ...     edit.in_place, read_gguf(path).hparam("context_length")
        (True, 1024)
    """
    edit = plan_edit(read_header(path), changes, removals, force=force)
    if edit.changed and not dry_run:
        apply_edit(edit)
    return edit


def plan_edit(
    header: GGUFHeader, changes: Mapping[str, Value], removals: Iterable[str] = (), *, force: bool = False
) -> Edit:
    """Plan what ``set_metadata`` does; nothing is written. Arguments and errors as there."""
    gone = list(dict.fromkeys(removals))
    after = {key: value for key, value in header.metadata.items() if key not in gone} | dict(changes)
    for key in gone:
        if key not in header.metadata:
            raise QuantmillError("no such key", path=header.path, where=key)
    for key, value in changes.items():
        _check_fixed(header, key, value)
        if not force:
            check_value(header, key, value)
    for key in gone:
        _check_fixed(header, key, None)
    if not force:
        _check_loadable(header, after, {*changes, *gone})
    with header.path.open("rb") as file:
        old = file.read(header.data_start)
    new = _new_header(header, old, changes, set(gone))
    done = [Change(key, header.metadata.get(key), value) for key, value in changes.items()]
    done += [Change(key, header.metadata[key], None) for key in gone]
    return Edit(header, tuple(done), new, old != new, _fits_one_sector(old, new))


def apply_edit(edit: Edit) -> None:
    """Write a planned edit. The module's docstring says why a crash cannot damage the file."""
    if edit.in_place:
        _write_sector(edit)
    else:
        _write_new_file(edit)


def _check_loadable(header: GGUFHeader, after: Metadata, edited: set[str]) -> None:
    """Refuse what makes a file one that llama.cpp does not load; not what was wrong before, and stays as it is."""
    before = set(check_metadata(header.metadata))
    for found in check_metadata(after):
        if found not in before or (found.key in edited and found.key in after):
            raise QuantmillError(
                found.problem, path=header.path, where=found.key, hint="--force makes the change all the same"
            )


def check_value(header: GGUFHeader, key: str, value: Value) -> None:
    """Check the entries of a value against the vocabulary.

    Raises:
        QuantmillError: a token id outside the vocabulary, or an array of one entry per token with another length.
    """
    vocab = vocabulary_size(header.metadata)
    if vocab is None:
        return
    if is_token_id(key) or key == "tokenizer.ggml.suppress_tokens":
        for token in np.atleast_1d(np.asarray(value.data)).tolist():
            if not isinstance(token, int) or not 0 <= token < vocab:
                raise QuantmillError(
                    f"token {token!r} is outside the vocabulary of {vocab}",
                    path=header.path,
                    where=key,
                    hint=f"0 to {vocab - 1}; --force sets it anyway",
                )
    if key in _PER_TOKEN and value.type is ValueType.ARRAY and len(value.items) != vocab:
        raise QuantmillError(
            f"{len(value.items)} entries for a vocabulary of {vocab}",
            path=header.path,
            where=key,
            hint="--force sets it anyway",
        )


def vocabulary_size(metadata: Metadata) -> int | None:
    """The number of tokens; None in a file without a vocabulary."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and tokens.type is ValueType.ARRAY:
        return len(tokens.items)
    for key, value in metadata.items():
        if key.endswith(".vocab_size") and isinstance(value.data, int):
            return value.data
    return None


def parse_value(text: str, type: KeyType, where: str) -> Value:
    """Parse a value that a user typed: a string as it is, an array as JSON, a number in any base.

    Raises:
        QuantmillError: the text is not a value of this type.

    Example:
        >>> from quantmill.formats.gguf.edit import parse_value
        >>> from quantmill.formats.gguf.keys import parse_type
        >>> parse_value("0x10", parse_type("uint32"), "llama.block_count").data
        16
    """
    kind, item = type
    if kind is ValueType.STRING:
        return Value(kind, text)
    return make_value(type, _parse(text, kind) if item is None else _parse_json_array(text, item, where), where)


def show_value(value: Value | None, metadata: Metadata, key: str, limit: int = 72) -> str:
    """Show a value on one line for people, a token's id with its text; ``-`` for None."""
    if value is None:
        return "-"
    if value.type is ValueType.ARRAY:
        head = [_plain(item) for item in value.items[:4]]
        more = ", ..." if len(value.items) > 4 else ""
        return _shorten(f"{type_name(value.type, value.item)} of {len(value.items)}: [{', '.join(head)}{more}]", limit)
    if value.type is ValueType.STRING:
        return _shorten(_plain(value.data), limit)
    if is_token_id(key):
        tokens = metadata.get("tokenizer.ggml.tokens")
        if tokens is not None and isinstance(value.data, int) and 0 <= value.data < len(tokens.texts):
            return f"{value.data} {_plain(tokens.texts[value.data])}"
    return _plain(value.data)


def _plain(data: Any) -> str:
    if isinstance(data, str):
        return ascii(data) if any("\ud800" <= c <= "\udfff" for c in data) else repr(data)
    if isinstance(data, (bool, np.bool_)):
        return str(bool(data)).lower()
    if isinstance(data, np.floating | float):
        return f"{float(data):.9g}"
    return str(data.data.tolist() if isinstance(data, Value) and hasattr(data.data, "tolist") else data)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _parse(text: str, type: ValueType) -> Any:
    """Parse a number or a bool. Any other text is returned as it is, for ``make_value`` to refuse.

    So is a number that becomes infinite or 0 in the type: it would be another one.
    """
    word = text.strip().lower()
    if type is ValueType.BOOL:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(word, text)
    for parse in (lambda: int(word, 0), lambda: int(word), lambda: float(word)):
        try:
            number = parse()
        except ValueError:
            continue
        return number if _is_kept(word, number, type) else text
    return text


def _is_kept(word: str, number: float, type: ValueType) -> bool:
    """Whether a number that is written neither as infinite nor as 0 is neither in its type."""
    if not isinstance(number, float):
        return True
    with np.errstate(over="ignore", under="ignore"):
        stored = float(np.float32(number)) if type is ValueType.FLOAT32 else number
    if np.isinf(stored):
        return word.lstrip("+-").startswith("inf")
    return stored != 0 or not re.search("[1-9]", word.partition("e")[0])


def _parse_json_array(text: str, item: ValueType, where: str) -> Any:
    import json

    try:
        data = json.loads(text, parse_float=lambda word: _parse(word, item))
    except ValueError as error:
        raise QuantmillError(
            f"not JSON: {error}", where=where, hint='an array is written ["a", "b"] or [1, 2]'
        ) from None
    if not isinstance(data, list):
        raise QuantmillError("not a JSON array", where=where, hint='an array is written ["a", "b"] or [1, 2]')
    return data


def _check_fixed(header: GGUFHeader, key: str, value: Value | None) -> None:
    """Refuse to change keys that the rest of the file depends on."""
    if not key:
        raise QuantmillError("a key cannot be empty", path=header.path)
    if key == GENERAL_ALIGNMENT and (DEFAULT_ALIGNMENT if value is None else value.data) != header.alignment:
        raise QuantmillError(
            "cannot be edited: the tensors are laid out by it", path=header.path, where=key, hint="convert again"
        )
    if key == GENERAL_ARCHITECTURE and value is None:
        raise QuantmillError("cannot be removed: no loader takes a file without it", path=header.path, where=key)


def _new_header(header: GGUFHeader, old: bytes, changes: Mapping[str, Value], gone: set[str]) -> bytes:
    """Build the new header, padded. Entries that do not change are copied byte for byte."""
    order = header.byteorder
    entries = []
    for key, (start, end) in header.spans.items():
        if key in changes:
            entries.append(encode_string(key, order) + encode_value(changes[key], order))
        elif key not in gone:
            entries.append(old[start:end])
    entries += [
        encode_string(key, order) + encode_value(value, order)
        for key, value in changes.items()
        if key not in header.metadata
    ]
    parts = [MAGIC, encode_number(ValueType.UINT32, header.version, order)]
    parts += [encode_number(ValueType.UINT64, n, order) for n in (len(header.tensors), len(entries))]
    new = b"".join([*parts, *entries, old[slice(*header.infos)]])
    return new + bytes(-len(new) % header.alignment)


def _fits_one_sector(old: bytes, new: bytes) -> bool:
    span = _changed_span(old, new)
    return len(old) == len(new) and span is not None and span[0] // SECTOR == (span[1] - 1) // SECTOR


def _changed_span(old: bytes, new: bytes) -> tuple[int, int] | None:
    """The span [start, end) of bytes that differ; None for equal headers, and for headers of different lengths."""
    if len(old) != len(new):
        return None
    differ = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
    return (int(differ[0]), int(differ[-1]) + 1) if differ.size else None


def _write_sector(edit: Edit) -> None:
    path = edit.header.path
    with path.open("rb") as file:
        old = file.read(edit.header.data_start)
    span = _changed_span(old, edit.new_header)
    if span is None:
        return
    start, end = span
    try:
        fd = os.open(path, os.O_RDWR)
        try:
            if os.pwrite(fd, edit.new_header[start:end], start) != end - start:
                raise OutputError("a write fell short", path=path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", path=path) from error


def _write_new_file(edit: Edit) -> None:
    header = edit.header
    length = header.file_size - header.data_start  # may be negative: no tensors and no padding
    with header.path.open("rb") as source:
        mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
        with atomic_output(header.path, len(edit.new_header) + max(0, length), force=True) as output:
            output.write_at(0, edit.new_header)
            _copy(source.fileno(), header.data_start, output, len(edit.new_header), length)
            os.fchmod(output.fileno(), mode)


def _copy(source: int, start: int, output: Output, at: int, length: int) -> None:
    """Copy ``length`` bytes inside the kernel where it can, else through memory."""
    in_kernel = hasattr(os, "copy_file_range")
    while length > 0:
        step = min(length, _COPY_CHUNK)
        done = 0
        if in_kernel:
            try:
                done = os.copy_file_range(source, output.fileno(), step, start, at)
            except OSError as error:
                if error.errno not in _CANNOT_COPY:
                    raise
                in_kernel = False
        if not done:
            chunk = os.pread(source, step, start)
            if not chunk:
                raise FormatError("the file became shorter while it was read", path=output.path)
            output.write_at(at, chunk)
            done = len(chunk)
        start, at, length = start + done, at + done, length - done
