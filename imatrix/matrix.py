"""Collected sums <-> importance matrix files, with llama.cpp's arithmetic for both kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..formats.errors import FormatError, QuantmillError
from ..formats.imatrix_file import Entry, Imatrix, read_imatrix
from ..formats.ir import Model
from .sums import Sums, merged, with_expert_prior


def to_imatrix(
    sums: Mapping[str, Sums], datasets: Sequence[str], chunk_size: int, *, legacy: bool = False, expert_prior: int = 0
) -> Imatrix:
    """The file's content.

    Args:
        sums: by tensor name.
        datasets: the texts' names, oldest first.
        chunk_size: tokens in a chunk.
        legacy: the ``.dat`` kind: means times chunks, in float32, unseen experts 1, tensors without data left out.
        expert_prior: see ``with_expert_prior``; 0 for none.
    """
    entries = {}
    for name, entry in sums.items():
        if expert_prior:
            entry = with_expert_prior(entry, expert_prior)
        if not legacy:
            entries[name] = Entry(entry.values.astype(np.float32).reshape(-1), entry.counts.copy())
        elif entry.counts.any():
            calls = -(-int(entry.counts.max()) // chunk_size)
            counts = entry.counts.astype(np.float32)[:, None]
            values = np.where(counts > 0, entry.values.astype(np.float32), np.float32(1))
            means = values / np.where(counts > 0, counts, np.float32(1)) * np.float32(calls)
            entries[name] = Entry(means.astype(np.float32).reshape(-1), np.array([calls], np.int64))
    most = max((int(entry.counts.max()) for entry in sums.values()), default=0)
    return Imatrix(entries, tuple(datasets), most // chunk_size, 0 if legacy else chunk_size, legacy)


def from_imatrix(imatrix: Imatrix, chunk_size: int) -> dict[str, Sums]:
    """The sums that a file holds; those of a ``.dat`` file, which counts chunks, times ``chunk_size``."""
    scale = chunk_size if imatrix.legacy else 1
    return {
        name: Sums(
            (entry.sums.astype(np.float64) * scale).reshape(entry.counts.size, -1),
            entry.counts.astype(np.int64) * scale,
        )
        for name, entry in imatrix.entries.items()
    }


def read_parts(paths: Sequence[Path], chunk_size: int | None) -> tuple[dict[str, Sums], list[str], int]:
    """Several files as one: their sums, their texts' names, and the chunk size.

    Args:
        paths: files of either kind.
        chunk_size: None to take the first one that a file tells, or 512.

    Raises:
        FormatError: a file is damaged. QuantmillError: they belong to different models.
    """
    return add_files([read_imatrix(path) for path in paths], chunk_size)


def add_files(files: Sequence[Imatrix], chunk_size: int | None) -> tuple[dict[str, Sums], list[str], int]:
    """``read_parts`` of files that are read already."""
    size = chunk_size or next((file.chunk_size for file in files if file.chunk_size), 512)
    total: dict[str, Sums] = {}
    for file in files:
        part = from_imatrix(file, size)
        for name, entry in part.items():
            if not np.isfinite(entry.values).all():
                raise FormatError("a sum is not finite", path=file.path, where=name)
            if name in total and total[name].values.size != entry.values.size:
                problem = f"has {entry.values.size} columns here, {total[name].values.size} in the files before"
                raise QuantmillError(problem, path=file.path, where=name, hint="the files belong to different models")
        total = merged([total, part])
    return total, [name for file in files for name in file.datasets], size


def check_belongs(sums: Mapping[str, Sums], model: Model, path: Path) -> None:
    """Raise ``QuantmillError`` unless the sums fit the model's tensors."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    known = [name for name in sums if name in tensors]
    if not known:
        raise QuantmillError("holds no tensor of this model", path=path, hint="it belongs to another model")
    for name in known:
        tensor = tensors[name]
        expected = tensor.width * int(np.prod(tensor.shape[:-2]))
        if sums[name].values.size != expected:
            problem = f"has {sums[name].values.size} columns, the model's tensor {expected}"
            raise QuantmillError(problem, path=path, where=name, hint="it belongs to another model")
