"""Describe a GGUF file from its header: metadata, tensors, types and bits per weight."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...formats.gguf.header import GGUFHeader, TensorEntry
    from ...formats.ir import Metadata, Tensor


@dataclass(frozen=True)
class TypeTotals:
    """The tensors of one type: their number, weights and bytes, and the type's bits per weight."""

    name: str
    n_tensors: int
    n_weights: int
    nbytes: int
    bpw: float


@dataclass(frozen=True)
class Description:
    """A GGUF file, or the shards of a model, without their tensors' bytes.

    Args:
        headers: of each shard, or of the one file. What is true of each file is said of the first.
        types: the totals of each type, the largest first.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import describe, tiny_llama, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_gguf(f"{folder}/tiny.gguf", tiny_llama())
        ...     description = describe(f"{folder}/tiny.gguf")
        >>> description.path.name, description.n_weights > 0
        ('tiny.gguf', True)
    """

    headers: tuple[GGUFHeader, ...]
    types: tuple[TypeTotals, ...]

    @property
    def path(self) -> Path:
        """The first file."""
        return self.headers[0].path

    @property
    def metadata(self) -> Metadata:
        """The model's metadata, with the keys that only concern the first file."""
        return self.headers[0].metadata

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """Every tensor, in the order of the files."""
        return tuple(entry for header in self.headers for entry in header.tensors)

    @property
    def file_size(self) -> int:
        """Bytes of all files."""
        return sum(header.file_size for header in self.headers)

    @property
    def n_weights(self) -> int:
        """Weights of all tensors."""
        return sum(row.n_weights for row in self.types)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(row.nbytes for row in self.types)

    @property
    def bpw(self) -> float:
        """Bits per weight, over all tensors."""
        return self.tensor_bytes * 8 / self.n_weights if self.n_weights else 0.0


def describe(path: str | Path) -> Description:
    """Read the header of a GGUF file, or of every shard of the model that it is one of.

    Raises:
        FormatError: the file is damaged or not GGUF, or shards are missing.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import describe, model_from_arrays, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {"x": np.ones((4, 8), np.float16)}))
        ...     describe(path).types
        (TypeTotals(name='F16', n_tensors=1, n_weights=32, nbytes=64, bpw=16.0),)
    """
    from ...formats.gguf.reader import read_headers
    from .hub import remote_headers

    headers = remote_headers(path) or read_headers(path)
    return Description(headers, type_totals(entry for header in headers for entry in header.tensors))


def type_totals(tensors: Iterable[Tensor | TensorEntry]) -> tuple[TypeTotals, ...]:
    """Sum the tensors of each type, the type with the most bytes first."""
    by_type: dict[str, list[Tensor | TensorEntry]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.qtype.name, []).append(tensor)
    rows = [
        TypeTotals(
            name, len(found), sum(prod(t.shape) for t in found), sum(t.nbytes for t in found), found[0].qtype.bpw
        )
        for name, found in by_type.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.nbytes))
