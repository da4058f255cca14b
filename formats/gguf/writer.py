"""Write GGUF files. The whole layout is computed first, so that tensors can then be written in any order.

The header's bytes are those that gguf-py writes for the same keys and tensors: keys in order, tensor offsets packed in
order, header and each tensor (the last too) padded with zeros to the alignment. llama.cpp's writer differs in one
thing: it drops leading axes of length 1 (``ggml_n_dims``); ``ggml_shape`` does the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..errors import PlanError
from ..ir import Metadata, Model, Tensor, ValueType
from ..progress import Progress, notes, work
from ..qtypes import QType
from ..storage.output import Output
from ..storage.resumable import Resumable, resumable_output
from ..storage.source import file_stamps
from ..version import __version__
from . import image_archs
from .keys import GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE
from .wire import DEFAULT_ALIGNMENT, MAGIC, ByteOrder, align, encode_number, encode_string, encode_value, swap_blocks

VERSIONS = (2, 3)
MAX_NAME = 63  # bytes; GGML_MAX_NAME is 64 with the closing zero, and llama.cpp refuses longer names
MAX_DIMS = 4  # GGML_MAX_DIMS

_CHUNK = 16 << 20  # bytes copied at a time: large enough for the disk, and little memory


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file that will be written; ``shape`` in numpy order."""

    name: str
    shape: tuple[int, ...]
    qtype: QType

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without padding."""
        return prod(self.shape[:-1]) * self.qtype.row_bytes(self.shape[-1] if self.shape else 1)


@dataclass(frozen=True)
class Layout:
    """The layout of a file that will be written.

    Args:
        header: the bytes from the start of the file to the first tensor, padding included.
        offsets: each tensor's file offset in bytes, in the order of the infos.
        size: the file's size in bytes.
        alignment: of the data section and of each tensor, in bytes.
        byteorder: of the header's numbers and the tensors' fields.
        between: (file offset, bytes) that stand between the tensors; GGUF has none, other containers do.
    """

    header: bytes
    offsets: tuple[int, ...]
    size: int
    alignment: int
    byteorder: ByteOrder
    between: tuple[tuple[int, bytes], ...] = ()

    @property
    def pieces(self) -> tuple[tuple[int, bytes], ...]:
        """All that is not a tensor, as (file offset, bytes)."""
        return ((0, self.header), *self.between)


def ggml_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Drop leading axes of length 1, as llama.cpp does; at least one axis stays.

    Example:
        >>> from quantmill.formats.gguf.writer import ggml_shape
        >>> ggml_shape((1, 1, 4, 32))
        (4, 32)
    """
    kept = tuple(shape)
    while len(kept) > 1 and kept[0] == 1:
        kept = kept[1:]
    return kept


def layout(
    metadata: Metadata,
    infos: Iterable[TensorInfo],
    *,
    version: int = 2,
    byteorder: ByteOrder = "little",
    alignment: int | None = None,
) -> Layout:
    """Compute the bytes of a GGUF header, and the offset of every tensor.

    Args:
        metadata: keys in file order.
        infos: tensors in file order.
        version: 2 or 3, which differ only in the number (3 declares that big-endian files exist).
        byteorder: ``big`` needs version 3.
        alignment: in bytes; None for ``general.alignment`` of the metadata, or 32.

    Raises:
        PlanError: no reader could load the file: a name is too long or occurs twice, a width is not a multiple of the
            block, there are more than four axes, or the alignment is not a power of two or contradicts the metadata.
    """
    tensors = tuple(infos)
    alignment = _check(metadata, tensors, version, byteorder, alignment)
    parts = [MAGIC, encode_number(ValueType.UINT32, version, byteorder)]
    parts += [encode_number(ValueType.UINT64, n, byteorder) for n in (len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [encode_string(key, byteorder), encode_value(value, byteorder)]
    relative = []
    end = 0
    for info in tensors:
        relative.append(end)
        parts.append(_encode_info(info, end, byteorder))
        end += align(info.nbytes, alignment)
    header = b"".join(parts)
    header += bytes(align(len(header), alignment) - len(header))
    offsets = tuple(len(header) + offset for offset in relative)
    return Layout(header, offsets, len(header) + end, alignment, byteorder)


def write_gguf(
    path: str | Path,
    model: Model,
    *,
    version: int = 2,
    byteorder: ByteOrder = "little",
    force: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Layout:
    """Write a model to a GGUF file as it is, a few rows of a tensor at a time.

    Args:
        path: the file to write. It appears when it is whole; until then it grows under another name beside it.
        model: its tensors keep their types, its metadata its order.
        version: of GGUF, 2 or 3.
        byteorder: ``"big"`` needs version 3.
        force: replace an existing file.
        restart: discard what an interrupted run left, rather than continue it.
        progress: called with typed events; see ``formats/progress.py``.

    Returns:
        the file's layout: its header, the offset of each tensor, its size.

    Raises:
        PlanError: the model cannot be a GGUF file; see ``layout``.
        OutputError: the file exists, is one of the model's own, or cannot be written.
        FormatError: the model's source is damaged or was changed.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import read_gguf, write_gguf
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> model = model_from_arrays("llama", {"output_norm.weight": np.ones(64, np.float32)})
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_gguf(Path(folder, "tiny.gguf"), model)
        ...     [tensor.name for tensor in read_gguf(Path(folder, "tiny.gguf"))]
        ['output_norm.weight']
    """
    plan = layout(
        model.metadata,
        (TensorInfo(t.name, t.shape, t.qtype) for t in model.tensors),
        version=version,
        byteorder=byteorder,
    )
    with work(progress, Path(path).name, sum(tensor.nbytes for tensor in model)) as done:
        write_laid_out(path, model, plan, force=force, restart=restart, done=done, say=notes(progress))
    return plan


def write_laid_out(
    path: str | Path,
    model: Model,
    plan: Layout,
    *,
    force: bool = False,
    restart: bool = False,
    done: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> None:
    """Write a model as it is, each tensor where ``plan`` puts it. Errors, and other arguments, as for ``write_gguf``.

    Args:
        done: called with the number of bytes just written.
        say: called with a line when an interrupted run is continued, or can be.
    """
    digest, inputs = digest_of([plan], model), model.paths
    with resumable_output(path, plan.size, digest, force=force, inputs=inputs, restart=restart, say=say) as journal:
        copy_tensors(journal, journal.output, plan, model.tensors, done=done)


def digest_of(plans: Iterable[Layout], model: Model) -> str:
    """Hash everything that the bytes of the files depend on: interrupted work with another hash is not continued."""
    digest = hashlib.sha256(f"{__version__}\n{file_stamps(model.paths)}".encode("utf-8", "surrogateescape"))
    for plan in plans:
        digest.update(f"{plan.byteorder} {plan.offsets} {plan.size}\n".encode())
        for offset, piece in plan.pieces:
            digest.update(f"{offset} {len(piece)}\n".encode())
            digest.update(piece)
    return digest.hexdigest()


def copy_tensors(
    journal: Resumable,
    output: Output,
    plan: Layout,
    tensors: Iterable[Tensor],
    first: int = 0,
    done: Callable[[int], object] | None = None,
) -> None:
    """Write one of the files of resumable work, but for the rows that an earlier run wrote.

    Args:
        journal: knows which rows are written.
        plan: where the header and each tensor go.
        first: the first tensor's number in the journal.
        done: called with the number of bytes just written, or found to be written.
    """
    for offset, piece in plan.pieces:
        output.write_at(offset, piece)
    for item, (tensor, offset) in enumerate(zip(tensors, plan.offsets, strict=True), first):
        for a, b in tensor.row_chunks(_CHUNK):
            if (item, a, b) not in journal.finished:
                rows = tensor.rows(a, b)
                if plan.byteorder == "big":
                    rows = swap_blocks(tensor.qtype, rows)
                output.write_at(offset + a * tensor.row_bytes, np.ascontiguousarray(rows))
                journal.done(item, a, b)
            if done is not None:
                done((b - a) * tensor.row_bytes)


def _encode_info(info: TensorInfo, offset: int, byteorder: ByteOrder) -> bytes:
    parts = [encode_string(info.name, byteorder), encode_number(ValueType.UINT32, len(info.shape), byteorder)]
    parts += [encode_number(ValueType.UINT64, dim, byteorder) for dim in reversed(info.shape)]
    parts.append(encode_number(ValueType.UINT32, info.qtype.id, byteorder))
    parts.append(encode_number(ValueType.UINT64, offset, byteorder))
    return b"".join(parts)


def _check(
    metadata: Metadata, tensors: tuple[TensorInfo, ...], version: int, byteorder: ByteOrder, alignment: int | None
) -> int:
    if version not in VERSIONS:
        raise PlanError(f"GGUF version {version} cannot be written", hint="2 or 3")
    if byteorder == "big" and version != 3:
        raise PlanError("a big-endian file needs GGUF version 3", hint="--gguf-version 3")
    if "" in metadata:
        raise PlanError("a metadata key is empty")
    stored = metadata.get(GENERAL_ALIGNMENT)
    declared = DEFAULT_ALIGNMENT if stored is None else stored.data
    if not isinstance(declared, int) or (stored is not None and stored.type is not ValueType.UINT32):
        raise PlanError("must be a uint32", where=GENERAL_ALIGNMENT)
    alignment = declared if alignment is None else alignment
    if alignment <= 0 or alignment & (alignment - 1):
        raise PlanError(f"an alignment of {alignment} is not a power of two", where=GENERAL_ALIGNMENT)
    if alignment != declared:
        raise PlanError(
            f"an alignment of {alignment} is requested, but the metadata says {declared}", where=GENERAL_ALIGNMENT
        )
    arch = metadata.get(GENERAL_ARCHITECTURE)
    image = arch is not None and isinstance(arch.data, str) and image_archs.is_image(arch.data)
    max_name, max_dims = (image_archs.MAX_NAME, image_archs.MAX_DIMS) if image else (MAX_NAME, MAX_DIMS)
    seen: set[str] = set()
    for info in tensors:
        if info.name in seen:
            raise PlanError("a second tensor of this name", where=info.name)
        seen.add(info.name)
        if len(info.name.encode("utf-8", "surrogateescape")) > max_name:
            raise PlanError(f"a tensor's name may have {max_name} bytes", where=info.name)
        if len(info.shape) > max_dims:
            raise PlanError(f"{len(info.shape)} axes; its loaders take {max_dims}", where=info.name)
        if info.shape and info.shape[-1] % info.qtype.block_size:
            raise PlanError(
                f"rows of {info.shape[-1]} weights are not a multiple of {info.qtype}'s block of "
                f"{info.qtype.block_size}",
                where=info.name,
            )
        if not info.shape and info.qtype.block_size > 1:
            raise PlanError(f"a single number cannot be {info.qtype}", where=info.name)
    return alignment
