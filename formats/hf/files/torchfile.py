"""Read state dicts as ``torch.save`` writes them since torch 1.6: a zip of a pickle and a record for each storage.

This is done without torch for two reasons: ``torch.load`` maps the file, and a mapped file that is cut short kills the
process; and an unpickler that knows six names cannot be made to do anything else. Source: ``_save`` and ``_load`` in
torch/serialization.py.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FormatError
from ...ir import Bytes
from ...json_text import ROOM
from ...storage.source import SourceFile

MAGIC = b"PK\x03\x04"
_OPCODE_MEMORY = 256  # bytes that an opcode of a pickle can make Python take: an empty dict and its place
_LOCAL_HEADER = 30  # bytes of a zip entry before its name

# torch's name of a dtype -> (safetensors' name, or the like where it has none; bytes)
DTYPES = {
    "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "float64": ("F64", 8),
    "uint8": ("U8", 1), "int8": ("I8", 1), "int16": ("I16", 2), "int32": ("I32", 4), "int64": ("I64", 8),
    "uint16": ("U16", 2), "uint32": ("U32", 4), "uint64": ("U64", 8), "bool": ("BOOL", 1),
    "complex64": ("C64", 8), "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1),
    "complex128": ("C128", 16), "float8_e8m0fnu": ("F8_E8M0", 1), "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
}  # fmt: skip
_STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16", "IntStorage": "int32",
    "LongStorage": "int64", "BoolStorage": "bool", "ComplexFloatStorage": "complex64", "UntypedStorage": "uint8",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip


@dataclass(frozen=True)
class _DType:
    name: str


@dataclass(frozen=True)
class _Storage:
    """A record of the zip: ``nbytes`` bytes at ``offset`` from the start of the file."""

    dtype: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of the file.

    Args:
        dtype: by its name in safetensors.
        itemsize: bytes of an element.
        strides: in elements.
        offset: of the first element, in bytes from the start of the file.
    """

    file: SourceFile
    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def rows(self, a: int, b: int) -> Bytes:
        """Read rows a to b of the tensor, flattened to [rows, width]: uint8 [b-a, row_bytes]."""
        width = (self.shape[-1] if self.shape else 1) * self.itemsize
        if self.strides == _packed(self.shape):
            return self.file.read(self.offset + a * width, (b - a) * width).reshape(b - a, width)
        raw = self.file.read(self.offset, _span(self.shape, self.strides) * self.itemsize)
        kind = np.dtype(f"V{self.itemsize}")
        strides = [stride * self.itemsize for stride in self.strides]
        whole = np.ndarray(self.shape, kind, raw.data, strides=strides)
        flat = np.ascontiguousarray(whole).reshape(-1, self.shape[-1] if self.shape else 1)
        return flat[a:b].view(np.uint8).reshape(b - a, width)


def read_torch_file(path: Path) -> Any:
    """Read the content of a file's pickle, with tensors as ``TorchTensor``.

    Raises:
        FormatError: the file is damaged, or not of this kind.
        pickle.UnpicklingError: the pickle asks for something that no state dict needs.
    """
    file = SourceFile(path)
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            pickled = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise FormatError("is a zip archive, not a PyTorch checkpoint", path=path)
            stem = pickled[0].filename.removesuffix("data.pkl")
            if any(max(info.compress_size, info.file_size) > file.size for info in archive.infolist()):
                raise FormatError("a record is larger than the file", path=path, hint="download it again")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise FormatError("its records are compressed; torch stores them", path=path, hint="save it again")
            names = archive.NameToInfo
            if f"{stem}byteorder" in names and archive.read(f"{stem}byteorder") != b"little":
                raise FormatError("was saved on a big-endian machine", path=path, hint="save it as safetensors")
            records = {name.removeprefix(f"{stem}data/"): info for name, info in names.items()}
            code = archive.read(pickled[0])
            _check_pickle(code, file.size + ROOM)
            return _Unpickler(code, file, records).content()
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, NotImplementedError) as error:
        problem = f"damaged or truncated: {error or type(error).__name__}"
        raise FormatError(problem, path=path, hint="download it again") from None


def _check_pickle(code: bytes, room: int) -> None:
    """Refuse a pickle that would take more than ``room`` bytes of memory.

    One opcode of five bytes can ask for a memo of 2^32 entries.

    Raises:
        pickle.UnpicklingError: it would take more.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(code), start=1):
        if count * _OPCODE_MEMORY > room:
            raise pickle.UnpicklingError("more items than any state dict has")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(code):
            raise pickle.UnpicklingError("a memo larger than the pickle")


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the six kinds of objects of a state dict, none of which runs code.

    The pickle gets bare objects for storages and tensors, which are kept here: a pickle can change the attributes of
    the objects that it was given, after they were checked.
    """

    def __init__(self, data: bytes, file: SourceFile, records: dict[str, zipfile.ZipInfo]) -> None:
        super().__init__(io.BytesIO(data))
        self._file, self._records = file, records
        self._made: dict[object, _Storage | TorchTensor] = {}
        self._known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._typed_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _DType(_STORAGES[name])
        if module == "torch" and name in DTYPES:
            return _DType(name)
        raise pickle.UnpicklingError(f"{module}.{name}")

    def content(self) -> Any:
        """The content of the pickle; if it is a dict, with its tensors."""
        content = self.load()
        if not isinstance(content, dict):
            return content
        return {
            name: self._made.get(value, value) if type(value) is object else value for name, value in content.items()
        }

    def _kept(self, thing: _Storage | TorchTensor) -> object:
        self._made[handle := object()] = thing
        return handle

    def _storage(self, handle: Any) -> _Storage:
        found = self._made.get(handle) if type(handle) is object else None
        if not isinstance(found, _Storage):
            raise pickle.UnpicklingError("a tensor without storage")
        return found

    def persistent_load(self, pid: Any) -> object:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, _DType) or type(count) is not int:
            raise pickle.UnpicklingError("an unknown kind of storage")
        info = self._records.get(str(key))
        if info is None or info.file_size < count * DTYPES[dtype.name][1]:
            raise self._damaged(f"record {key} is missing or too short")
        return self._kept(_Storage(dtype.name, self._data_of(info), info.file_size))

    def _data_of(self, info: zipfile.ZipInfo) -> int:
        """The offset of an entry's data: its local header may be longer than that in the directory."""
        head = self._file.read(info.header_offset, min(_LOCAL_HEADER, self._file.size - info.header_offset)).tobytes()
        if len(head) < _LOCAL_HEADER or head[:4] != MAGIC:
            raise self._damaged(f"{info.filename} is not where the directory has it")
        start = info.header_offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", head, 26))
        if start + info.file_size > self._file.size:
            raise self._damaged(f"{info.filename} ends after the file")
        return int(start)

    def _tensor(self, storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> object:
        found = self._storage(storage)
        return self._placed(found, found.dtype, first, shape, strides)

    def _typed_tensor(self, storage: Any, first: Any, shape: Any, strides: Any, *rest: Any) -> object:
        dtype = rest[2] if len(rest) > 2 else None
        if not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("a tensor without a type")
        return self._placed(self._storage(storage), dtype.name, first, shape, strides)

    def _placed(self, storage: _Storage, dtype: str, first: Any, shape: Any, strides: Any) -> object:
        sizes = (first, *shape, *strides)
        if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 62 for n in sizes):
            raise self._damaged(f"a tensor of shape {shape!r}")
        name, itemsize = DTYPES[dtype]
        if (first + _span(shape, strides)) * itemsize > storage.nbytes:
            raise self._damaged(f"a tensor of shape {tuple(shape)} ends after its storage")
        at = storage.offset + first * itemsize
        return self._kept(TorchTensor(self._file, name, itemsize, tuple(shape), tuple(strides), at))

    def _damaged(self, problem: str) -> FormatError:
        return FormatError(f"damaged or truncated: {problem}", path=self._file.path, hint="download it again")


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, in elements."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The elements from the first to the last in the file, both included."""
    if not all(shape):
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
