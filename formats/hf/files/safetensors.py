"""Read and write safetensors files: the reader checks every length, the writer streams.

Layout: u64 header length, a JSON header ``{name: {dtype, shape, data_offsets}}``, then the data, little-endian, without
holes. Source: the format's README and ``tensor.rs`` of safetensors 0.8, whose checks these are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FormatError
from ...floats import f64_to_f32
from ...ir import Bytes, Role, Tensor
from ...json_text import ROOM, parse_json
from ...pointers import LONGEST, check_pointer
from ...qtypes import BY_NAME, F32, QType
from ...storage.folder import GrowingFolder
from ...storage.source import ByteSource, SourceFile

# Bits of a value. F4 and the F6s are packed, so a tensor's bits must fill whole bytes.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

# Types of tensors that can be written: those of whole bytes. Where GGML has none of the name, it has no number there.
FILE_TYPES = {
    name: BY_NAME.get(name) or QType(name, -1, 1, (("x", f"<u{bits // 8}", 1),))
    for name, bits in DTYPE_BITS.items()
    if bits >= 8
}

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
MAX_DIMS = 8  # twice what GGML can hold; no checkpoint has more
CHUNK = 16 << 20  # bytes read and written at a time


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, checked against the file: ``nbytes`` bytes at ``offset`` from its start.

    A tensor of another file has no bytes there, and a function ``read`` of its own if its rows can be read.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    file: ByteSource | None = field(default=None, repr=False, compare=False)
    read: Callable[[int, int], Bytes] | None = field(default=None, repr=False, compare=False)

    def tensor(self) -> Tensor:
        """The lazy tensor under its name in the file, with the role ``OTHER``; F64 is rounded to F32 as it is read.

        Raises:
            FormatError: its dtype is none of F64, F32, F16 and BF16.
        """
        source = f"{self.path}: {self.name}"
        if self.dtype == "F64":
            return Tensor(self.name, Role.OTHER, None, self.shape, F32, self._rounded_rows, source)
        if self.dtype not in ("F32", "F16", "BF16"):
            raise FormatError(
                f"dtype {self.dtype} cannot be converted",
                path=self.path,
                where=self.name,
                hint="weights must be F64, F32, F16 or BF16; dequantize or cast the checkpoint first",
            )
        return Tensor(self.name, Role.OTHER, None, self.shape, BY_NAME[self.dtype], self.rows, source)

    def long_numbers(self) -> Tensor:
        """The lazy tensor of whole numbers, as I64.

        Raises:
            FormatError: its dtype is another.
        """
        if self.dtype != "I64":
            raise FormatError(f"dtype {self.dtype} is not I64", path=self.path, where=self.name)
        return Tensor(self.name, Role.OTHER, None, self.shape, BY_NAME["I64"], self.rows, f"{self.path}: {self.name}")

    def whole_numbers(self) -> Tensor:
        """The lazy tensor of whole numbers, as I32.

        Raises:
            FormatError: its dtype is neither I32 nor I64; when rows are read: a number does not fit.
        """
        if self.dtype not in ("I32", "I64"):
            raise FormatError(f"dtype {self.dtype} is not I32 or I64", path=self.path, where=self.name)
        source = f"{self.path}: {self.name}"
        return Tensor(self.name, Role.OTHER, None, self.shape, BY_NAME["I32"], self._short_rows, source)

    def _short_rows(self, a: int, b: int) -> Bytes:
        rows = self.rows(a, b)
        if self.dtype == "I32":
            return rows
        numbers = np.ascontiguousarray(rows).view("<i8")
        short = numbers.astype("<i4")
        if not np.array_equal(short, numbers):
            raise FormatError("a number does not fit in 32 bits", path=self.path, where=self.name)
        return short.view(np.uint8)

    def _rounded_rows(self, a: int, b: int) -> Bytes:
        return f64_to_f32(self.rows(a, b), first=a, where=f"{self.path}: {self.name}")

    def rows(self, a: int, b: int) -> Bytes:
        """Read rows a to b: uint8 [b-a, row_bytes]."""
        if self.read is not None:
            return self.read(a, b)
        row_bytes = (self.shape[-1] if self.shape else 1) * DTYPE_BITS[self.dtype] // 8
        return self.piece(a * row_bytes, (b - a) * row_bytes).reshape(b - a, row_bytes)

    def piece(self, start: int, n: int) -> Bytes:
        """Read ``n`` of its bytes from the offset ``start`` among them: uint8 [n]."""
        file = self.file or SourceFile(self.path)
        return file.read(self.offset + start, n, self.name)


def read_safetensors(path: Path, file: ByteSource | None = None) -> dict[str, StoredTensor]:
    """Read the header of a file: its tensors by name, sorted by name as the safetensors library lists them.

    Args:
        path: the file.
        file: what its bytes are read from where it does not lie on this machine.

    Raises:
        FormatError: there is no such file, or its header is not valid.
    """
    file = file or SourceFile(path)
    size = file.size
    check_pointer(file.read(0, min(size, LONGEST + 1)).tobytes(), path)
    if size < 8:
        raise FormatError(f"truncated: {size} bytes, no room for a header", path=path)
    length = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if length > MAX_HEADER:
        raise FormatError(f"not a safetensors file: a header of {length} bytes", path=path, where="byte 0")
    if length > size - 8:
        problem = f"truncated: the header takes {length} bytes, the file has {size - 8}"
        raise FormatError(problem, path=path, hint="download it again")
    raw = file.read(8, length).tobytes()
    header = _parse_header(raw, path, size + ROOM)
    return dict(sorted(_checked(header, file, 8 + length).items()))


def _parse_header(raw: bytes, path: Path, room: int) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise FormatError(f"{key!r} appears twice in the header", path=path, hint="the file is damaged")
            found[key] = value
        return found

    header = parse_json(raw, path, room=room, where="byte 8", object_pairs_hook=unique)
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object", path=path, where="byte 8")
    header.pop("__metadata__", None)
    return header


def _checked(header: dict[str, Any], file: ByteSource, start: int) -> dict[str, StoredTensor]:
    path, size = file.path, file.size
    entries = {name: _entry(name, item, file, start) for name, item in header.items()}
    end, last = start, ""
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
        if entry.offset != end:
            problem = (
                f"its data overlaps that of {last}" if entry.offset < end else f"a hole of {entry.offset - end} bytes"
            )
            raise FormatError(problem, path=path, where=entry.name, hint="the file is damaged")
        end, last = entry.offset + entry.nbytes, entry.name
        if end > size:
            problem = f"truncated: its data ends at byte {end}, the file has {size}"
            raise FormatError(problem, path=path, where=entry.name, hint="download it again")
    if end < size:
        raise FormatError(f"{size - end} bytes after the last tensor", path=path, hint="the file is damaged")
    return entries


def _entry(name: str, item: Any, file: ByteSource, start: int) -> StoredTensor:
    path = file.path

    def is_sizes(value: Any) -> bool:
        return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)

    item = item if isinstance(item, dict) else {}
    dtype, shape, offsets = (item.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise FormatError(f"unknown dtype {dtype!r}", path=path, where=name)
    if not is_sizes(shape) or len(shape) > MAX_DIMS or prod(max(n, 1) for n in shape) >= 1 << 60:
        raise FormatError(f"{shape!r} is not a valid shape", path=path, where=name)
    if not is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{offsets!r} are not valid data offsets", path=path, where=name)
    bits, nbytes = prod(shape) * DTYPE_BITS[dtype], offsets[1] - offsets[0]
    if bits != nbytes * 8:
        problem = f"{dtype} {shape} takes {bits / 8:g} bytes, its data has {nbytes}"
        raise FormatError(problem, path=path, where=name)
    return StoredTensor(path, name, dtype, tuple(shape), start + offsets[0], nbytes, file)


def write_safetensors(
    folder: Path | GrowingFolder,
    tensors: Sequence[Tensor],
    *,
    max_shard_bytes: float = 5e9,
    stem: str = "model",
    beside: Mapping[str, Sequence[Tensor]] | None = None,
    done: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write ``model.safetensors`` (see ``stem``), or shards with their index, a chunk of rows at a time.

    Args:
        folder: must exist. In a resumable folder, what an earlier run wrote is not written again.
        tensors: of ``FILE_TYPES``, under their names in the file; each is read once, in file order.
        max_shard_bytes: bytes of data in a shard; a larger tensor gets a shard of its own.
        stem: what the files' names begin with.
        beside: tensors of further files, by the name of each, in folders that exist.
        done: called with the number of bytes just written.

    Returns:
        the paths written, the index last.

    Raises:
        OSError: a file cannot be written; ``resumable_folder`` turns it into an ``OutputError``.
    """
    shards = [ordered(shard) for shard in _shards(tensors, max_shard_bytes)]
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [f"{stem}.safetensors"]
    path = folder if isinstance(folder, Path) else folder.path
    files = dict(zip(names, shards, strict=True)) | {name: ordered(own) for name, own in (beside or {}).items()}
    if isinstance(folder, Path):
        for name, own in files.items():
            _write_file(path / name, own, done)
    else:
        _write_files(folder, files, done)
    paths = [path / name for name in names]
    if len(shards) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(t.n_weights for t in tensors),
                "total_size": sum(t.nbytes for t in tensors),
            },
            "weight_map": dict(
                sorted((t.name, name) for name, shard in zip(names, shards, strict=True) for t in shard)
            ),
        }
        paths.append(path / f"{stem}.safetensors.index.json")
        paths[-1].write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return paths


def _shards(tensors: Iterable[Tensor], limit: float) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def ordered(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sort by dtype, wide ones first, then by name: the order of safetensors, which keeps every tensor aligned.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.hf.files.safetensors import ordered
        >>> a, b = tensor_from_array("a", np.ones(2, np.float16)), tensor_from_array("b", np.ones(2, np.float32))
        >>> [tensor.name for tensor in ordered([a, b])]
        ['b', 'a']
    """
    return sorted(tensors, key=lambda t: (-t.qtype.block_bytes, t.name))


def header_of(tensors: Sequence[Tensor]) -> bytes:
    """The bytes of a file's header, including its length, for tensors of ``FILE_TYPES`` in the file's order.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.hf.files.safetensors import header_of
        >>> len(header_of([tensor_from_array("a", np.ones(2, np.float16))])) % 8
        0
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    end = 0
    for tensor in tensors:
        assert FILE_TYPES.get(tensor.qtype.name) is tensor.qtype, tensor
        offsets = [end, end := end + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.qtype.name, "shape": list(tensor.shape), "data_offsets": offsets}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _write_file(path: Path, tensors: Sequence[Tensor], done: Callable[[int], object] | None) -> None:
    with open(path, "wb") as file:
        file.write(header_of(tensors))
        for tensor in tensors:
            for rows in chunks(tensor):
                file.write(np.ascontiguousarray(rows).data)
                if done is not None:
                    done(rows.nbytes)


def _write_files(
    folder: GrowingFolder, files: Mapping[str, Sequence[Tensor]], done: Callable[[int], object] | None
) -> None:
    """Write the same bytes as ``_write_file``, but for those that an earlier run wrote."""
    heads = {name: header_of(tensors) for name, tensors in files.items()}
    sizes = {name: len(heads[name]) + sum(t.nbytes for t in tensors) for name, tensors in files.items()}
    folder.check_room(sum(sizes.values()))
    outputs = {name: folder.create(name, size) for name, size in sizes.items()}
    item = 0
    for name, tensors in files.items():
        output = outputs[name]
        output.write_at(0, heads[name])
        at = len(heads[name])
        for tensor in tensors:
            for a, b in tensor.row_chunks(CHUNK):
                if (item, a, b) not in folder.finished:
                    output.write_at(at + a * tensor.row_bytes, np.ascontiguousarray(tensor.rows(a, b)))
                    folder.done(item, a, b)
                if done is not None:
                    done((b - a) * tensor.row_bytes)
            at += tensor.nbytes
            item += 1


def chunks(tensor: Tensor) -> Iterator[Bytes]:
    """Read a tensor's rows, about 16 MB at a time."""
    for a, b in tensor.row_chunks(CHUNK):
        yield tensor.rows(a, b)
