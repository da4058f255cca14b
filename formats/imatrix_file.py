"""Read and write importance matrix files: llama.cpp's GGUF kind and the older ``.dat``.

A file holds, for each matrix of a model, the sums of its squared inputs over some text and the number of inputs.
Source: common/imatrix-loader.cpp, tools/imatrix/imatrix.cpp and tools/quantize/quantize.cpp of llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .ir import Bytes, Metadata, Model, Value, ValueType
from .moments_file import SUFFIX, Moments, read_moments
from .storage.source import SourceFile

if TYPE_CHECKING:
    from .gguf.writer import TensorInfo
    from .storage.output import Output

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_MATRICES = 1 << 16  # in a stack; models have hundreds of experts
_MAX_COUNT = 2.0**53  # inputs: far beyond any text, and whole numbers still
_MAX_ENTRIES = 1 << 16  # in a .dat file, each of which takes about a kilobyte of memory; models have thousands
_MAX_NAME = 1 << 16  # bytes of a tensor's or a dataset's name; a path is 4096 at most
_NOT_ONE = "this is not an importance matrix"
_MAX_PROVENANCE = 127  # bytes of a metadata string in llama_model_kv_override


@dataclass(frozen=True)
class Entry:
    """What a file holds for one tensor: a matrix, or a stack of experts.

    Args:
        sums: float32 [n_matrices * width], of squared inputs; in ``.dat`` files, their means times ``counts``.
        counts: int64 [n_matrices], the inputs seen; in ``.dat`` files one number, the chunks seen.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix file.

    Args:
        entries: by tensor name.
        datasets: the names of the texts.
        chunk_count: chunks of text seen.
        chunk_size: tokens in a chunk; 0 in ``.dat`` files, which do not store it.
        legacy: whether it was read from, or will be written as, a ``.dat`` file.
        path: the file it was read from.
        moments: second moments, if the file has them.

    Example:
        >>> import numpy as np
        >>> from quantmill import Imatrix
        >>> from quantmill.formats.imatrix_file import Entry
        >>> imatrix = Imatrix({"output.weight": Entry(np.array([[2.0, 4.0]], np.float32), np.array([2.0], np.float32))})
        >>> imatrix.vectors()["output.weight"].tolist()
        [1.0, 2.0]
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    legacy: bool = False
    path: Path | None = field(default=None, compare=False)
    moments: Moments | None = field(default=None, compare=False)

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Compute the importance of each column: float32 [n_matrices * width] for each tensor.

        The float operations are those of llama-quantize. All columns of an expert that saw no input get 1.
        """
        return {name: self._vector(entry) for name, entry in self.entries.items()}

    def _vector(self, entry: Entry) -> NDArray[np.float32]:
        if self.legacy:
            calls = int(entry.counts[0]) if entry.counts.size else 0
            return entry.sums / np.float32(calls) if calls > 0 else entry.sums.copy()
        sums = entry.sums.reshape(entry.counts.size, -1)
        counts = entry.counts.astype(np.float32)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(counts > 0, sums / counts, np.float32(1)).astype(np.float32).reshape(-1)

    def provenance(self, path: str | Path, n_entries: int | None = None) -> dict[str, Value]:
        """The ``quantize.imatrix.*`` metadata that llama-quantize writes to a file made with this matrix.

        Args:
            path: the file's name, as the user gave it.
            n_entries: the number of entries used, if not all.
        """
        n = len(self.entries) if n_entries is None else n_entries
        keys = {"quantize.imatrix.file": Value(ValueType.STRING, _cut(str(path)))}
        if self.datasets:
            keys["quantize.imatrix.dataset"] = Value(ValueType.STRING, _cut(self.datasets[0]))
        keys["quantize.imatrix.entries_count"] = Value(ValueType.UINT32, n)
        if self.chunk_count > 0:
            keys["quantize.imatrix.chunks_count"] = Value(ValueType.UINT32, self.chunk_count)
        return keys


def _cut(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_MAX_PROVENANCE].decode("utf-8", "surrogateescape")


def read_imatrix(path: str | Path) -> Imatrix:
    """Read an importance matrix file of either kind: GGUF, or the older ``.dat``.

    Raises:
        FormatError: the file is truncated, damaged, or not an importance matrix.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import read_imatrix
        >>> from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
        >>> entry = Entry(sums=np.array([8, 2], np.float32), counts=np.array([4]))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "imatrix.gguf")
        ...     write_imatrix(path, Imatrix({"blk.0.ffn_up.weight": entry}, datasets=("wiki.txt",)))
        ...     read_imatrix(path).vectors()["blk.0.ffn_up.weight"].tolist()
        [2.0, 0.5]
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from error
    return _read_gguf(path) if magic == b"GGUF" else _read_dat(path)


def _read_gguf(path: Path) -> Imatrix:
    from .gguf.reader import read_gguf

    model = read_gguf(path)
    missing = [k for k in ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size") if k not in model.metadata]
    if missing:
        raise FormatError(f"has no {missing[0]}: this GGUF file is not an importance matrix", path=path)
    halves: dict[str, dict[str, NDArray[np.float32]]] = {}
    for tensor in model.tensors:
        for suffix in (_SUMS, _COUNTS):
            if tensor.name.endswith(suffix):
                if tensor.qtype.name != "F32":
                    raise FormatError(f"is {tensor.qtype}, must be F32", path=path, where=tensor.name)
                data = tensor.rows(0, tensor.n_rows).reshape(-1).view("<f4").astype(np.float32, copy=False)
                halves.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = data
    entries = {name: _entry(path, name, pair) for name, pair in sorted(halves.items())}
    if not entries:
        raise FormatError("holds no entries", path=path)
    count, size = (_number(model, f"imatrix.chunk_{what}") for what in ("count", "size"))
    sizes = {name: (entry.sums.size // entry.counts.size, entry.counts) for name, entry in entries.items()}
    return Imatrix(entries, _datasets(model), count, size, path=path, moments=read_moments(model, sizes))


def _number(model: Model, key: str) -> int:
    value = model.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise FormatError("is not a valid count", path=model.path, where=key, hint="the file is damaged")
    return value


def _datasets(model: Model) -> tuple[str, ...]:
    names = model.metadata["imatrix.datasets"]
    if names.item is not ValueType.STRING and not (names.type is ValueType.ARRAY and not len(names.items)):
        problem = "is not an array of strings"
        raise FormatError(problem, path=model.path, where="imatrix.datasets", hint="the file is damaged")
    return names.texts


def _entry(path: Path, name: str, pair: dict[str, NDArray[np.float32]]) -> Entry:
    if len(pair) != 2:
        lacks = _COUNTS if _SUMS in pair else _SUMS
        raise FormatError(f"has no {lacks}", path=path, where=name)
    sums, counts = pair[_SUMS], pair[_COUNTS]
    if not counts.size or sums.size % counts.size:
        raise FormatError(f"{sums.size} sums do not divide by {counts.size} counts", path=path, where=name)
    if counts.size > _MAX_MATRICES:
        raise FormatError(
            f"{counts.size} counts, one for each matrix", path=path, where=name, hint="the file is damaged"
        )
    if not (np.abs(counts) < _MAX_COUNT).all():  # NaN is not, either
        raise FormatError("a count is not finite", path=path, where=name + _COUNTS, hint="the file is damaged")
    # lround: half away from zero
    rounded = np.copysign(np.floor(np.abs(counts.astype(np.float64)) + 0.5), counts).astype(np.int64)
    return Entry(sums, rounded)


class _Bytes:
    """A ``.dat`` file's bytes; every length is checked against the bytes that remain before it is used."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.at = path, SourceFile(path), 0

    @property
    def left(self) -> int:
        return self.file.size - self.at

    def take(self, n: int, what: str) -> Bytes:
        if n < 0 or n > self.left:
            raise FormatError(
                f"{what} has {n} bytes, only {self.left} remain",
                path=self.path,
                where=f"byte {self.at}",
                hint="truncated, or not an importance matrix",
            )
        self.at += n
        return self.file.read(self.at - n, n)

    def int32(self, what: str) -> int:
        return int(self.take(4, what).view("<i4")[0])

    def text(self, what: str) -> str:
        length = self.int32(f"{what}'s length")
        if length > _MAX_NAME:
            raise FormatError(f"{what} has {length} bytes", path=self.path, where=f"byte {self.at}", hint=_NOT_ONE)
        return self.take(length, what).tobytes().decode("utf-8", "surrogateescape")


def _read_dat(path: Path) -> Imatrix:
    data = _Bytes(path)
    n = data.int32("the number of entries")
    if not 0 < n <= min(data.left // 16, _MAX_ENTRIES):  # an entry is three numbers and a value at least
        raise FormatError(f"{n} entries in {data.file.size} bytes", path=path, hint=_NOT_ONE)
    entries: dict[str, Entry] = {}
    for _ in range(n):
        name = data.text("a name")
        if name in entries:
            raise FormatError("a second entry of this name", path=path, where=name)
        calls, n_values = data.int32(f"{name}: the chunks"), data.int32(f"{name}: the number of values")
        if n_values < 1:
            raise FormatError(f"{n_values} values", path=path, where=name)
        values = data.take(4 * n_values, f"{name}: {n_values} values").view("<f4").astype(np.float32, copy=False)
        entries[name] = Entry(values, np.array([calls], np.int64))
    # Files of before March 2024 end here, some after the number of chunks.
    chunks = data.int32("the number of chunks") if data.left else 0
    dataset = data.text("the dataset's name") if data.left else ""
    if data.left:
        raise FormatError(f"{data.left} bytes too many", path=path, where=f"byte {data.at}")
    return Imatrix(entries, (dataset,) if dataset else (), chunks, legacy=True, path=path)


def write_imatrix(path: str | Path, imatrix: Imatrix, *, force: bool = False) -> None:
    """Write an importance matrix file, with the bytes that llama.cpp's collector writes.

    Args:
        path: the file to write; it appears when it is whole.
        imatrix: written as ``.dat`` if ``imatrix.legacy``, else as GGUF.
        force: replace an existing file.

    Raises:
        OutputError: the file exists, or cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import Imatrix, read_imatrix, write_imatrix
        >>> from quantmill.formats.imatrix_file import Entry
        >>> imatrix = Imatrix({"output.weight": Entry(np.ones((1, 256), np.float32), np.ones(1, np.float32))})
        >>> with TemporaryDirectory() as folder:
        ...     write_imatrix(f"{folder}/imatrix.gguf", imatrix)
        ...     sorted(read_imatrix(f"{folder}/imatrix.gguf").entries)
        ['output.weight']
    """
    from .storage.output import atomic_output

    if imatrix.legacy:
        data = _dat_bytes(imatrix)
        with atomic_output(path, len(data), force) as output:
            output.write_at(0, data)
        return
    from .gguf.writer import layout

    metadata, tensors = gguf_form(imatrix)
    moments = imatrix.moments
    infos = [info for info, _ in tensors]
    if moments is not None:
        metadata = {**metadata, **moments.metadata()}
        infos += _moment_infos(moments)
    place = layout(metadata, infos, version=3)
    with atomic_output(path, place.size, force) as output:
        output.write_at(0, place.header)
        for offset, (_, values) in zip(place.offsets, tensors, strict=False):
            output.write_at(offset, values.astype("<f4"))
        if moments is not None:
            _write_moments(output, place.offsets[len(tensors) :], moments)


def _moment_infos(moments: Moments) -> list[TensorInfo]:
    from .gguf.writer import TensorInfo, ggml_shape
    from .qtypes import F32

    return [TensorInfo(holder + SUFFIX, ggml_shape(moments.shape(holder)), F32) for holder in moments.holders]


def _write_moments(output: Output, offsets: Sequence[int], moments: Moments) -> None:
    """Write second moments one matrix at a time, since all of them may be more than memory holds."""
    for offset, holder in zip(offsets, moments.holders, strict=True):
        n_matrices, size = moments.shape(holder)
        for matrix in range(n_matrices):
            output.write_at(offset + 4 * size * matrix, moments.packed(holder, matrix).astype("<f4", copy=False))


def gguf_form(imatrix: Imatrix) -> tuple[Metadata, list[tuple[TensorInfo, NDArray[np.float32]]]]:
    """The metadata of a GGUF importance matrix, and its tensors (description, values) in order."""
    from .gguf.writer import TensorInfo, ggml_shape
    from .qtypes import F32

    metadata = {
        "general.type": Value(ValueType.STRING, "imatrix"),
        "imatrix.datasets": Value(ValueType.ARRAY, imatrix.datasets, ValueType.STRING),
        "imatrix.chunk_count": Value(ValueType.UINT32, imatrix.chunk_count),
        "imatrix.chunk_size": Value(ValueType.UINT32, imatrix.chunk_size),
    }
    tensors = []
    for name, entry in sorted(imatrix.entries.items(), key=lambda row: row[0].encode("utf-8", "surrogateescape")):
        n = entry.counts.size
        sums, counts = entry.sums.reshape(n, -1), entry.counts.astype(np.float32).reshape(n, 1)
        for suffix, values in ((_SUMS, sums), (_COUNTS, counts)):
            tensors.append((TensorInfo(name + suffix, ggml_shape(values.shape), F32), values))
    return metadata, tensors


def _dat_bytes(imatrix: Imatrix) -> bytes:
    parts = [struct.pack("<i", len(imatrix.entries))]
    for name, entry in sorted(imatrix.entries.items(), key=lambda row: row[0].encode("utf-8", "surrogateescape")):
        raw = name.encode("utf-8", "surrogateescape")
        parts += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", int(entry.counts[0]), entry.sums.size)]
        parts.append(entry.sums.astype("<f4").tobytes())
    dataset = (imatrix.datasets[-1] if imatrix.datasets else "").encode("utf-8", "surrogateescape")
    parts += [struct.pack("<ii", imatrix.chunk_count, len(dataset)), dataset]
    return b"".join(parts)
