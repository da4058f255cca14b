"""Reading GGUF files, whole or split over several; tensors are read when they are asked for."""

from __future__ import annotations

from pathlib import Path

from ..ir import Bytes, Model, Shard, Tensor
from ..storage.source import ByteSource, Elsewhere, SourceFile
from .header import GGUFHeader, TensorEntry, parse_header
from .keys import GENERAL_ARCHITECTURE
from .names import parse_name
from .shards import check_set, set_size, sibling_paths, split_count, without_split
from .wire import swap_blocks


def read_header(path: str | Path) -> GGUFHeader:
    """Read and check the header of a GGUF file: every tensor is whole, aligned, and overlaps no other.

    Raises:
        FormatError: the file is damaged, or not GGUF of version 2 or 3.
    """
    return _parse(Path(path), SourceFile(Path(path)))


def read_headers(path: str | Path, *, elsewhere: Elsewhere | None = None) -> tuple[GGUFHeader, ...]:
    """Read the headers of all files of a model: one for a whole file, one for each shard of a split model.

    Args:
        path: a whole file, or any shard, whose siblings are found by their names.
        elsewhere: those of its folder's files that do not lie on this machine.

    Raises:
        FormatError: a file is damaged, or shards are missing or do not belong together.
    """
    return tuple(header for _, header in _open_all(Path(path), elsewhere))


def read_gguf(path: str | Path, *, elsewhere: Elsewhere | None = None) -> Model:
    """Read a GGUF file of version 2 or 3, in either byte order. Its tensors are read when they are asked for.

    Args:
        path: a whole file, or any shard of a split model, whose siblings are found by their names.
        elsewhere: those of its folder's files that do not lie on this machine.

    Returns:
        the model; ``Model.arch`` is empty in a file that names no architecture, such as an importance matrix.

    Raises:
        FormatError: a file is damaged, or shards are missing or do not belong together.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_gguf, write_gguf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_gguf(Path(folder, "tiny.gguf"), tiny_llama())
        ...     model = read_gguf(Path(folder, "tiny.gguf"))
        ...     model.tensors[0].name, model.tensors[0].rows(0, 2).shape
        ('token_embd.weight', (2, 512))
    """
    path = Path(path)
    parts = _open_all(path, elsewhere)
    metadata = parts[0][1].metadata
    arch = metadata.get(GENERAL_ARCHITECTURE)
    return Model(
        arch=arch.data if arch is not None and isinstance(arch.data, str) else "",
        metadata=metadata if len(parts) == 1 else without_split(metadata),
        tensors=tuple(_tensor(file, header, entry) for file, header in parts for entry in header.tensors),
        path=path,
        shards=tuple(Shard(header.path, len(header.tensors)) for _, header in parts) if len(parts) > 1 else (),
    )


def _open_all(path: Path, elsewhere: Elsewhere | None) -> list[tuple[ByteSource, GGUFHeader]]:
    away = () if elsewhere is None else elsewhere.names

    def opened(path: Path) -> tuple[ByteSource, GGUFHeader]:
        file = elsewhere.open(path.name) if elsewhere is not None and path.name in away else SourceFile(path)
        return file, _parse(path, file)

    first = opened(path)
    if split_count(first[1].metadata) == 1:
        return [first]
    parts = [first if sibling == path else opened(sibling) for sibling in sibling_paths(first[1], away)]
    check_set([header for _, header in parts])
    return parts


def _tensor(file: ByteSource, header: GGUFHeader, entry: TensorEntry) -> Tensor:
    row_bytes = entry.qtype.row_bytes(entry.shape[-1] if entry.shape else 1)
    swap = header.byteorder == "big"

    def read(a: int, b: int) -> Bytes:
        rows = file.read(entry.offset + a * row_bytes, (b - a) * row_bytes, entry.name).reshape(b - a, row_bytes)
        rows.flags.writeable = False
        return swap_blocks(entry.qtype, rows) if swap else rows

    role, layer = parse_name(entry.name)
    return Tensor(entry.name, role, layer, entry.shape, entry.qtype, read, f"{header.path}: {entry.name}")


def parse_frame(path: Path, frame: bytes, tensor_bytes: int) -> GGUFHeader:
    """Parse and check the header of a file of which only the bytes outside its tensors are known.

    Args:
        frame: all bytes of the file but the tensors', in file order.
        tensor_bytes: bytes of all tensors.
    """
    return parse_header(path, frame, model_size=set_size(path), file_size=len(frame) + tensor_bytes)


def _parse(path: Path, file: ByteSource) -> GGUFHeader:
    return parse_header(path, file, model_size=set_size(path))
