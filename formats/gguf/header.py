"""Parse the header of a GGUF file, version 2 or 3, in either byte order. Nothing in it is used unchecked."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..errors import FormatError
from ..ir import Metadata, Value, ValueType
from ..qtypes import BY_ID, QType
from ..storage.source import ByteSource
from . import image_archs
from .keys import GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE
from .wire import DEFAULT_ALIGNMENT, MAGIC, ByteOrder, Cursor, align

# Types of files of 2023 and 2024 that llama.cpp has removed (ggml.h).
_REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_BYTES = 2**63 - 1  # ggml, NumPy and files count in an int64
_MAX_ALIGNMENT = 1 << 20  # a power of two far above any in use (32, 64, 4096); larger ones are damage

# The least bytes of an entry, to check a count before a loop: a key of one byte, its type and a one-byte value; a
# tensor with a name of one byte and no axes, its type and its offset.
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_INFO_BYTES = 8 + 4 + 4 + 8

# The most bytes of memory that each takes besides its texts and arrays (tracemalloc): a key with its Value and span; a
# tensor with its description and reader.
_KEY_MEMORY = 768
_TENSOR_MEMORY = 2048

_OTHER_FORMATS = (
    (b"tjgg", "a GGML file (ggjt) of mid 2023", "convert reads it: convert FILE NEW.gguf"),
    (b"fmgg", "a GGML file (ggmf) of early 2023", "convert the original checkpoint"),
    (b"lmgg", "a GGML file without version", "convert the original checkpoint"),
    (b"algg", "a GGLA adapter", "convert the original adapter"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "give the checkpoint's folder"),
    (b"\x80\x02", "a Python pickle, perhaps an old PyTorch checkpoint", "give the checkpoint's folder"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run git annex get"),
    (b"../", "the text of a link, not the file itself", "copy or download the file itself"),
    (b"<", "a web page", "download the file itself"),
    (b"FUGG", "GGUF with its bytes swapped in fours", "download the file again"),
    (b"\x93NUMPY", "a NumPy array", None),
    (b"{", "JSON", None),
)


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header describes it.

    Args:
        shape: in numpy order, the innermost axis last.
        offset: of its first byte, from the start of the file.
        nbytes: bytes of its data, without padding.
    """

    name: str
    shape: tuple[int, ...]
    qtype: QType
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """Everything that stands before the tensors' data.

    Args:
        spans: for each metadata key the bytes (start, end) of its whole entry, for the editor.
        infos: the bytes (start, end) of the tensor descriptions.
        data_start: the offset of the data section in bytes, a multiple of ``alignment``.
        file_size: bytes of the whole file.
    """

    path: Path
    version: int
    byteorder: ByteOrder
    alignment: int
    metadata: Metadata
    tensors: tuple[TensorEntry, ...]
    spans: dict[str, tuple[int, int]]
    infos: tuple[int, int]
    data_start: int
    file_size: int


def parse_header(
    path: Path, data: ByteSource | bytes, *, model_size: int = 0, file_size: int | None = None
) -> GGUFHeader:
    """Parse and check the header of a GGUF file: every tensor is whole, aligned, and overlaps no other.

    Args:
        path: the file, for messages.
        data: the open file, or the bytes of it that are at hand, from its start.
        model_size: bytes of all files of a split model; metadata may take more memory in a large model.
        file_size: bytes of the whole file, where ``data`` is only part of it.

    Raises:
        FormatError: naming the file, the place and what to do.
    """
    cursor = Cursor(data, path, model_size=model_size)
    _check_magic(cursor)
    version = _read_version(cursor)
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    if n_keys * _MIN_KEY_BYTES + n_tensors * _MIN_INFO_BYTES > cursor.size - cursor.position:
        raise cursor.fail(
            f"the header announces {n_keys} keys and {n_tensors} tensors, more than the file can hold",
            hint="it is truncated or damaged: download or copy it again",
        )
    metadata, spans = _read_metadata(cursor, n_keys)
    alignment = _read_alignment(cursor, metadata)
    infos_start = cursor.position
    max_dims = _max_dims(metadata)
    raw = [_read_info(cursor, i, max_dims) for i in range(n_tensors)]
    infos_end = cursor.position
    data_start = align(infos_end, alignment)
    header = GGUFHeader(
        path=path,
        version=version,
        byteorder=cursor.byteorder,
        alignment=alignment,
        metadata=metadata,
        tensors=tuple(TensorEntry(name, shape, kind, data_start + at, size) for name, shape, kind, at, size in raw),
        spans=spans,
        infos=(infos_start, infos_end),
        data_start=data_start,
        file_size=cursor.size if file_size is None else file_size,
    )
    _check_tensors(header)
    return header


def _check_magic(cursor: Cursor) -> None:
    start = cursor.peek(64)
    if start[:4] == MAGIC:
        cursor.position = 4
        return
    cursor.what = "the first bytes"
    if not start:
        raise cursor.fail("the file is empty", hint="download or copy it again")
    if MAGIC.startswith(start):
        raise cursor.fail(f"truncated: only {len(start)} bytes", hint="download or copy the file again")
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        advice = "give the checkpoint's folder; convert reads image models of one file"
        raise cursor.fail("not GGUF but safetensors", hint=advice)
    for magic, what, hint in _OTHER_FORMATS:
        if start.startswith(magic):
            raise cursor.fail(f"not GGUF but {what}", hint=hint)
    raise cursor.fail(f"not GGUF: it begins with {start[:4]!r}")


def _read_version(cursor: Cursor) -> int:
    cursor.what = "the version"
    version = cursor.u32()
    if version and not version & 0xFFFF:  # a small number with its bytes swapped
        cursor.byteorder = "big"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version == 1:
        raise cursor.fail(
            "GGUF version 1 (August 2023) is no longer read",
            hint="convert the original checkpoint, or use a newer file",
        )
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version} is unknown; 2 and 3 are read")
    return version


def _read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, Value], dict[str, tuple[int, int]]]:
    metadata: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for i in range(count):
        start = cursor.position
        cursor.what = f"metadata key {i + 1} of {count}"
        cursor.charge(_KEY_MEMORY)
        key = cursor.name()
        if not key:
            raise cursor.fail("the key is empty", hint="the file is damaged")
        if key in metadata:
            raise cursor.fail(f"a second {key!r}", hint="the file is damaged")
        cursor.what = f"metadata key {key!r}"
        metadata[key] = cursor.value()
        spans[key] = (start, cursor.position)
    return metadata, spans


def _read_alignment(cursor: Cursor, metadata: dict[str, Value]) -> int:
    value = metadata.get(GENERAL_ALIGNMENT)
    if value is None:
        return DEFAULT_ALIGNMENT
    cursor.what = f"metadata key {GENERAL_ALIGNMENT!r}"
    if value.type is not ValueType.UINT32:
        raise cursor.fail(f"must be a uint32, is {value.type.name.lower()}", hint="the file is damaged")
    alignment = value.data if isinstance(value.data, int) else 0
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail(f"{alignment} is not a power of two up to {_MAX_ALIGNMENT}", hint="the file is damaged")
    return alignment


def _max_dims(metadata: dict[str, Value]) -> int:
    arch = metadata.get(GENERAL_ARCHITECTURE)
    image = arch is not None and isinstance(arch.data, str) and image_archs.is_image(arch.data)
    return image_archs.MAX_DIMS if image else _MAX_DIMS


def _read_info(cursor: Cursor, i: int, max_dims: int) -> tuple[str, tuple[int, ...], QType, int, int]:
    """Read a tensor's name, shape, type, offset in the data section and size in bytes."""
    cursor.what = f"tensor {i + 1}"
    cursor.charge(_TENSOR_MEMORY)
    name = cursor.name()
    cursor.what = f"tensor {name!r}"
    n_dims = cursor.u32()
    if n_dims > max_dims:
        raise cursor.fail(f"{n_dims} axes; ggml has {max_dims}", hint="the file is damaged")
    shape = tuple(cursor.u64() for _ in range(n_dims))[::-1]
    number = cursor.u32()
    kind = BY_ID.get(number)
    if kind is None:
        if number in _REMOVED_TYPES:
            raise cursor.fail(
                f"type {_REMOVED_TYPES[number]} was removed from llama.cpp",
                hint="take a file of another type, such as Q4_0 or IQ4_NL",
            )
        raise cursor.fail(f"no tensor type has the id {number}", hint="the file is damaged, or newer than this program")
    width = shape[-1] if shape else 1
    if width % kind.block_size:
        raise cursor.fail(f"rows of {width} weights are not a multiple of {kind}'s block of {kind.block_size}")
    nbytes = _nbytes(shape, kind)
    if nbytes > _MAX_BYTES:
        raise cursor.fail(f"a shape of {list(shape)} overflows", hint="the file is damaged")
    return name, shape, kind, cursor.u64(), nbytes if all(shape) else 0


def _nbytes(shape: tuple[int, ...], kind: QType) -> int:
    """Bytes of a tensor. Axes of length 0 count as 1 here, as in NumPy's check of array sizes."""
    return prod(max(dim, 1) for dim in shape) * kind.block_bytes // kind.block_size


def _check_tensors(header: GGUFHeader) -> None:
    """Check that each tensor is in the file, aligned, has its own name, and overlaps no other."""
    names: set[str] = set()
    for entry in header.tensors:
        if entry.name in names:
            raise _tensor_error(header, entry, "a second tensor of this name", "the file is damaged")
        names.add(entry.name)
        if entry.offset % header.alignment:
            raise _tensor_error(header, entry, f"not aligned to {header.alignment} bytes", "the file is damaged")
    end_of_last = header.data_start
    last = "the header"
    for entry in sorted((e for e in header.tensors if e.nbytes), key=lambda e: e.offset):
        if entry.offset < end_of_last:
            raise _tensor_error(header, entry, f"overlaps {last}", "the file is damaged")
        end_of_last, last = entry.offset + entry.nbytes, entry.name
    missing = end_of_last - header.file_size
    if header.tensors and missing > 0:
        cut = next(e for e in header.tensors if e.offset + e.nbytes > header.file_size)
        raise _tensor_error(
            header,
            cut,
            f"truncated: the file has {header.file_size} bytes, {missing} are missing",
            "download or copy it again",
        )


def _tensor_error(header: GGUFHeader, entry: TensorEntry, problem: str, hint: str) -> FormatError:
    return FormatError(problem, path=header.path, where=f"tensor {entry.name!r}, byte {entry.offset}", hint=hint)
