"""Convert collected sums to importance matrix files and back, with llama.cpp's arithmetic for both kinds of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from ..formats.errors import FormatError, QuantmillError, name_list
from ..formats.imatrix_file import Entry, Imatrix, read_imatrix
from ..formats.ir import Model
from .sums import Sums, merged_sums, with_expert_prior

_NAMED = 3  # entries in a line


def to_imatrix(
    sums: Mapping[str, Sums], datasets: Sequence[str], chunk_size: int, *, legacy: bool = False, expert_prior: int = 0
) -> Imatrix:
    """Convert sums to a file's content.

    Args:
        sums: by tensor name.
        datasets: the texts' names, oldest first.
        chunk_size: tokens in a chunk.
        legacy: make the content of a ``.dat`` file: means times chunks in float32, 1 for unseen experts, and nothing
            for tensors without data.
        expert_prior: fill up experts that saw fewer tokens than this, see ``with_expert_prior``; 0 for not at all.

    Example:
        >>> sums = {"blk.0.attn_q.weight": Sums(np.array([[8.0, 2.0]]), np.array([64]))}
        >>> imatrix = to_imatrix(sums, ["text.txt"], chunk_size=32)
        >>> imatrix.chunk_count, imatrix.entries["blk.0.attn_q.weight"].sums
        (2, array([8., 2.], dtype=float32))
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
    """Convert a file's content to sums. A ``.dat`` file counts chunks: its numbers are multiplied by ``chunk_size``."""
    scale = chunk_size if imatrix.legacy else 1
    return {
        name: Sums(
            (entry.sums.astype(np.float64) * scale).reshape(entry.counts.size, -1),
            entry.counts.astype(np.int64) * scale,
        )
        for name, entry in imatrix.entries.items()
    }


def read_parts(paths: Sequence[Path], chunk_size: int | None) -> tuple[dict[str, Sums], list[str], int]:
    """Read and add several importance matrix files.

    Args:
        paths: files of either kind.
        chunk_size: tokens in a chunk; None to take it from the first file that says, else 512.

    Returns:
        The sums by tensor name, the texts' names, and the chunk size.

    Raises:
        FormatError: a file is damaged.
        QuantmillError: the files belong to different models.
    """
    return add_files([read_imatrix(path) for path in paths], chunk_size)


def add_files(files: Sequence[Imatrix], chunk_size: int | None) -> tuple[dict[str, Sums], list[str], int]:
    """Add the contents of several files; see ``read_parts``."""
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
        total = merged_sums([total, part])
    return total, [name for file in files for name in file.datasets], size


def check_same_model(files: Sequence[Imatrix]) -> list[str]:
    """Lines that say where a file's entries are not those of the files before it.

    Raises:
        QuantmillError: it has none of theirs: it is of another model.
    """
    before: set[str] = set()
    lines = []
    for file in files:
        own = set(file.entries)
        if before and own.isdisjoint(before):
            theirs, ours = name_list(sorted(before), _NAMED), name_list(sorted(own), _NAMED)
            problem = f"has no entry of the files before it: they have {theirs}; it has {ours}"
            raise QuantmillError(problem, path=file.path, hint="merge files of one model")
        if before and own != before:
            only, lacks = (name_list(sorted(names), _NAMED) for names in (own - before, before - own))
            more = f"; only it has {len(own - before)} ({only})" if only else ""
            less = f"; it lacks {len(before - own)} ({lacks})" if lacks else ""
            lines.append(f"{file.path}: {len(own & before)} entries are those of the files before{more}{less}")
        before |= own
    return lines


def check_belongs(file: Imatrix, model: Model) -> list[str]:
    """Lines that say which entries of a file belong to no tensor of the model.

    Raises:
        QuantmillError: none does, or one has another number of columns.
    """
    tensors = {tensor.name: tensor for tensor in model.tensors}
    known = [name for name in file.entries if name in tensors]
    if not known:
        theirs, ours = name_list(list(file.entries), _NAMED), name_list(list(tensors), _NAMED)
        problem = f"holds no tensor of this model: it has {theirs}; the model has {ours}"
        raise QuantmillError(problem, path=file.path, hint="it belongs to another model")
    for name in known:
        columns = file.entries[name].sums.size
        expected = tensors[name].width * prod(tensors[name].shape[:-2])
        if columns != expected:
            problem = f"has {columns} columns, the model's tensor {expected}"
            raise QuantmillError(problem, path=file.path, where=name, hint="it belongs to another model")
    missed = [name for name in file.entries if name not in tensors]
    if not missed:
        return []
    counts = f"{len(missed)} of {len(file.entries)} entries belong to no tensor of this model, and are kept"
    return [f"warning: {file.path}: {counts}: {name_list(missed, _NAMED)}"]
