"""Read and write GGUF's primitives: numbers, strings, arrays and typed values, in either byte order.

Every length is checked against the bytes that remain before anything is allocated.
Source: gguf.md of ggml, and gguf.cpp (the reader's limits).
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import FormatError
from ..ir import Bytes, Value, ValueType
from ..json_text import ROOM
from ..qtypes import QType
from ..storage.source import ByteSource
from .keys import NUMPY_TYPES

ByteOrder = Literal["little", "big"]
MAGIC = b"GGUF"  # in this order whatever the byte order of the rest
DEFAULT_ALIGNMENT = 32

_PREFIX: dict[ByteOrder, Literal["<", ">"]] = {"little": "<", "big": ">"}
_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}

# Published files have no nested arrays and llama.cpp refuses them; the limit protects the stack from a hostile file.
_MAX_NESTING = 4
_PIECE = 1 << 16  # bytes of a file that are read at a time
_BATCH = 1 << 13  # strings between two checks of the memory they take
_MAX_NAME = (1 << 16) - 1  # bytes of a key (gguf.md); llama.cpp's tensor names have 63
# Bytes of memory that objects take at most (tracemalloc, CPython 3.10 to 3.14 on 64 bits).
_OURS = 2 << 20  # pieces, messages and other objects that do not grow with the file
_ARRAY_MEMORY = 512  # an array of an array: its Value, the ndarray, its place
_PLACE = 16  # a string's place in a list, and then in a tuple
_MIN_ITEM_BYTES = {ValueType.STRING: 8, ValueType.ARRAY: 12}  # an empty string; an empty array

# Fields of bytes that llama.cpp copies to and from a native uint32, so that their order is reversed on a big-endian
# machine (dequantize_row_q5_0 in ggml-quants.c).
_NATIVE_WORDS = {("Q5_0", "qh"), ("Q5_1", "qh")}


def align(n: int, alignment: int) -> int:
    """Round ``n`` up to a multiple of ``alignment``."""
    return -(-n // alignment) * alignment


class Cursor:
    """A position in a file's bytes that moves as values are read. Every error names the file and the byte."""

    def __init__(
        self,
        data: bytes | ByteSource,
        path: Path,
        byteorder: ByteOrder = "little",
        position: int = 0,
        *,
        model_size: int = 0,
    ) -> None:
        """Begin at ``position``.

        Args:
            data: all bytes, or a file, of which a piece at a time is read.
            path: the file, for messages.
            model_size: bytes of all files of a split model, which share the limit of memory.
        """
        self._file = None if isinstance(data, bytes) else data
        self._piece = data if isinstance(data, bytes) else b""
        self._start = 0  # of the piece, in the file
        self.path = path
        self.size = len(data) if isinstance(data, bytes) else data.size
        self.position = position
        self.byteorder: ByteOrder = byteorder
        self.what = "the header"  # what is being read, for messages
        self._room = max(self.size, model_size) + ROOM - _OURS  # bytes of memory that what is read may still take

    def fail(self, problem: str, hint: str | None = None) -> FormatError:
        """An error at this position, to be raised."""
        return FormatError(problem, path=self.path, where=f"{self.what}, byte {self.position}", hint=hint)

    def need(self, n: int) -> None:
        """Raise unless ``n`` more bytes remain."""
        missing = self.position + n - self.size
        if missing > 0:
            raise self.fail(
                f"truncated: {missing} of the {n} bytes expected here are missing",
                hint="download or copy the file again",
            )

    def peek(self, n: int) -> bytes:
        """The next ``n`` bytes, or as many as there are; the position stays."""
        n = min(n, self.size - self.position)
        start = self.position - self._start
        if not 0 <= start <= start + n <= len(self._piece):
            assert self._file is not None
            self._piece = self._file.read(self.position, min(max(n, _PIECE), self.size - self.position)).tobytes()
            self._start, start = self.position, 0
        return self._piece[start : start + n]

    def take(self, n: int) -> bytes:
        """Read ``n`` bytes."""
        self.need(n)
        taken = self.peek(n)
        self.position += n
        return taken

    def number(self, type: ValueType) -> Any:
        """Read a number of a type."""
        fmt = _PREFIX[self.byteorder] + _FORMATS[type]
        return struct.unpack(fmt, self.take(struct.calcsize(fmt)))[0]

    def u32(self) -> int:
        """Read a uint32."""
        return int(self.number(ValueType.UINT32))

    def u64(self) -> int:
        """Read a uint64."""
        return int(self.number(ValueType.UINT64))

    def take_array(self, n: int) -> Bytes:
        """Read ``n`` bytes as uint8 [n]; many bytes are read without a copy."""
        self.need(n)
        if self._file is None or n <= _PIECE:
            return np.frombuffer(self.take(n), np.uint8)
        self.position += n
        return self._file.read(self.position - n, n)

    def charge(self, n: int) -> None:
        """Count ``n`` bytes of memory. Their sum is limited to the size of the model's files and 64 MB more."""
        self._room -= n
        if self._room < 0:
            raise self.fail(
                "the header has more pieces than the model's size and 64 MB of memory hold",
                hint="the file is damaged, or made to exhaust memory",
            )

    def string(self, limit: int | None = None) -> str:
        """Read a string of at most ``limit`` bytes."""
        length = self.u64()
        if limit is not None and length > limit:
            raise self.fail(f"a name of {length} bytes; {limit} is the most", hint="the file is damaged")
        raw = self.take_array(length)
        # While it is decoded there are the bytes, the text, which one wide character makes four times as long, and
        # the narrower text that it was until then.
        most = 2 * length if length <= _PIECE or int(raw.max()) < 128 else 7 * length
        self.charge(most)
        text = str(raw.data, "utf-8", "surrogateescape")
        self.charge(sys.getsizeof(text) - most)
        return text

    def name(self) -> str:
        """Read a key or a tensor's name."""
        return self.string(_MAX_NAME)

    def value_type(self) -> ValueType:
        """Read the type of a metadata value."""
        number = self.u32()
        try:
            return ValueType(number)
        except ValueError:
            raise self.fail(f"no metadata value type has the id {number}", hint="the file is damaged") from None

    def value(self, type: ValueType | None = None, depth: int = 0) -> Value:
        """Read a metadata value; its type is read first, unless it is given."""
        if type is None:
            type = self.value_type()
        if type is ValueType.STRING:
            return Value(type, self.string())
        if type is ValueType.ARRAY:
            return self._array(depth)
        number = self.number(type)
        return Value(type, number != 0 if type is ValueType.BOOL else number)

    def _array(self, depth: int) -> Value:
        if depth >= _MAX_NESTING:
            raise self.fail(f"arrays nested deeper than {_MAX_NESTING}", hint="the file is damaged")
        item = self.value_type()
        count = self.u64()
        width = NUMPY_TYPES[item].itemsize if item in NUMPY_TYPES else _MIN_ITEM_BYTES[item]
        self.need(count * width)
        if item is ValueType.STRING:
            return Value(ValueType.ARRAY, self._strings(count), item)
        if item is ValueType.ARRAY:
            self.charge(count * _ARRAY_MEMORY)
            nested = tuple(self.value(ValueType.ARRAY, depth + 1) for _ in range(count))
            return Value(ValueType.ARRAY, nested, item)
        self.charge(count * width)
        raw = self.take_array(count * width)
        if item is ValueType.BOOL:
            raw = raw if raw.flags.writeable else raw.copy()
            return Value(ValueType.ARRAY, np.not_equal(raw, 0, out=raw.view(np.bool_)), item)
        kind = NUMPY_TYPES[item]
        array = raw.view(kind.newbyteorder(_PREFIX[self.byteorder])).astype(kind, copy=False)
        return Value(ValueType.ARRAY, array, item)

    def _strings(self, count: int) -> tuple[str, ...]:
        found: list[str] = []
        while len(found) < count:
            batch = self._strings_at_hand(min(count - len(found), _BATCH))
            self.charge(sum(map(sys.getsizeof, batch)) + _PLACE * len(batch))
            found += batch or [self.string()]  # one that goes on in the next piece, or an error with the place
        return tuple(found)

    def _strings_at_hand(self, most: int) -> list[str]:
        """Read the strings that are whole in the current piece. It is fast, for vocabularies of 100,000s of tokens."""
        unpack = struct.Struct(_PREFIX[self.byteorder] + "Q").unpack_from
        piece, at = self._piece, self.position - self._start
        last = len(piece) - 8
        found: list[str] = []
        while 0 <= at <= last and len(found) < most:
            end = at + 8 + unpack(piece, at)[0]
            if end > len(piece):
                break
            found.append(piece[at + 8 : end].decode("utf-8", "surrogateescape"))
            at = end
        self.position = self._start + at
        return found


def encode_string(text: str, byteorder: ByteOrder = "little") -> bytes:
    """Encode a string: its length as uint64, then UTF-8."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack(_PREFIX[byteorder] + "Q", len(raw)) + raw


def encode_number(type: ValueType, data: Any, byteorder: ByteOrder = "little") -> bytes:
    """Encode a number or bool of a type."""
    return struct.pack(_PREFIX[byteorder] + _FORMATS[type], data)


def encode_value(value: Value, byteorder: ByteOrder = "little", with_type: bool = True) -> bytes:
    """Encode a metadata value; its type's id comes first, unless ``with_type`` is False."""
    head = encode_number(ValueType.UINT32, value.type, byteorder) if with_type else b""
    if value.type is ValueType.STRING:
        assert isinstance(value.data, str)
        return head + encode_string(value.data, byteorder)
    if value.type is not ValueType.ARRAY:
        return head + encode_number(value.type, value.data, byteorder)
    item, items = value.item, value.items
    assert item is not None, "an array needs the type of its items"
    head += encode_number(ValueType.UINT32, item, byteorder) + encode_number(ValueType.UINT64, len(items), byteorder)
    if item is ValueType.STRING:
        return head + b"".join([encode_string(text, byteorder) for text in value.texts])
    if item is ValueType.ARRAY:
        nested = [one for one in items if isinstance(one, Value)]
        return head + b"".join([encode_value(one, byteorder, with_type=False) for one in nested])
    kind = NUMPY_TYPES[item].newbyteorder(_PREFIX[byteorder])
    return head + np.asarray(items).astype(kind, casting="same_kind", copy=False).tobytes()


def swap_blocks(qtype: QType, raw: Bytes) -> Bytes:
    """Swap the byte order of rows: every field of several bytes, in every block, is reversed.

    Args:
        qtype: the rows' type.
        raw: uint8 [n, row_bytes].

    Returns:
        uint8 [n, row_bytes], a copy. Swapping it again gives ``raw``.
    """
    out = np.array(raw, np.uint8, order="C")
    blocks = out.reshape(-1, qtype.block_bytes)
    offset = 0
    for name, dtype, count in qtype.fields:
        total = np.dtype(dtype).itemsize * count
        width = 4 if (qtype.name, name) in _NATIVE_WORDS else np.dtype(dtype).itemsize
        if width > 1:
            field = blocks[:, offset : offset + total]
            words = field.reshape(len(blocks), total // width, width)
            field[...] = words[:, :, ::-1].reshape(len(blocks), total)
        offset += total
    return out
