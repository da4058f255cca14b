"""Split a GGUF file into shards, and merge them again.

The shards are those of tools/gguf-split of llama.cpp: the same tensors in each, all of the model's keys in the first,
and three keys of its place in each; for a version 3 file, the bytes are the same, too. A version 2 file keeps its
version, so that merging gives it back.

Shards do not store how their source was padded, or that it had keys of its own about shards. If merging would not write
the source's bytes, the first shard keeps all bytes outside the tensors, compressed, under the key ``FRAME``, which
other programs ignore.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import FormatError, PlanError
from ..ir import Metadata, Model, Tensor, Value, ValueType
from ..json_text import ROOM
from ..storage.resumable import resumable_outputs
from .header import GGUFHeader
from .reader import parse_frame, read_gguf, read_headers
from .shards import FRAME, MAX_SHARDS, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS_COUNT, shard_path, with_split, without_split
from .wire import DEFAULT_ALIGNMENT, ByteOrder, align, encode_value
from .writer import Layout, TensorInfo, copy_tensors, digest_of, layout, write_laid_out

# A header holds a vocabulary of tens of MB; more than this is not a header but a file inside a file. It also bounds
# what a hostile shard can make us decompress.
_MAX_FRAME = 256 << 20


@dataclass(frozen=True)
class ShardPlan:
    """One shard that ``write_split`` will write."""

    path: Path
    tensors: tuple[Tensor, ...]
    layout: Layout


@dataclass(frozen=True)
class SplitPlan:
    """What ``write_split`` will write.

    Args:
        source: the model to split.
        shards: in order.
        byteorder: of the source and the shards.
        exact: whether merging gives the source's bytes without ``FRAME``.
    """

    source: Model
    shards: tuple[ShardPlan, ...]
    byteorder: ByteOrder
    exact: bool


def group_tensors(
    tensors: Sequence[Tensor],
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    empty_first: bool = False,
    path: Path | None = None,
) -> tuple[tuple[Tensor, ...], ...]:
    """Divide tensors among shards, in order; arguments and errors as for ``group_sizes``."""
    counts = group_sizes(
        [tensor.nbytes for tensor in tensors],
        max_tensors=max_tensors, max_bytes=max_bytes, empty_first=empty_first, path=path,
    )  # fmt: skip
    starts = np.cumsum([0, *counts]).tolist()
    return tuple(tuple(tensors[a:b]) for a, b in pairwise(starts))


def group_sizes(
    sizes: Sequence[int],
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    empty_first: bool = False,
    path: Path | None = None,
) -> tuple[int, ...]:
    """How many tensors each shard gets, in order. Source: ``split_strategy`` of tools/gguf-split.

    Args:
        sizes: bytes of each tensor.
        max_tensors, max_bytes: the limit of a shard; exactly one is given. Bytes count tensors, padded to 32, without
            the header. A larger tensor gets a shard of its own (llama-gguf-split fails if it is the first).
        empty_first: whether the first shard holds only keys.
        path: the source, for messages.

    Raises:
        PlanError: there would be too many shards.
    """
    assert (max_tensors is None) != (max_bytes is None)
    counts = [0, 0] if empty_first else [0]
    total = 0
    for i, size in enumerate(sizes):
        nbytes = align(size, DEFAULT_ALIGNMENT)
        full = i > 0 and i % max_tensors == 0 if max_tensors is not None else total + nbytes > (max_bytes or 0)
        if full and counts[-1]:
            counts.append(0)
            total = 0
        counts[-1] += 1
        total += nbytes
    if len(counts) > MAX_SHARDS:
        raise PlanError(f"{len(counts)} shards; a set has {MAX_SHARDS} at most", path=path, hint="larger shards")
    return tuple(counts)


def plan_split(
    source: str | Path,
    prefix: str | Path,
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    empty_first: bool = False,
    version: int | None = None,
) -> SplitPlan:
    """Plan the shards of a file, or new shards of a split model. No tensor is read.

    Args:
        source: a GGUF file, or any shard of a split model.
        prefix: the shards are named ``prefix-00001-of-0000N.gguf``.
        max_tensors, max_bytes, empty_first: see ``group_tensors``.
        version: the GGUF version of the shards; None for that of the source.

    Raises:
        FormatError: the source is damaged.
        PlanError: there would be too many shards, or one cannot be a GGUF file; see ``layout``.
    """
    model, headers = read_gguf(source), read_headers(source)
    groups = group_tensors(
        model.tensors, max_tensors=max_tensors, max_bytes=max_bytes, empty_first=empty_first, path=model.path
    )
    first = headers[0]
    metadata = without_split(model.metadata)
    frame = _frame_to_keep(headers, metadata, model)
    if frame is not None:
        metadata[FRAME] = frame
    shards = []
    for i, group in enumerate(groups):
        keys = with_split(metadata if i == 0 else {}, i, len(groups), len(model.tensors), count_last=True)
        place = layout(keys, _infos(group), version=version or first.version, byteorder=first.byteorder)
        shards.append(ShardPlan(shard_path(prefix, i, len(groups)), group, place))
    return SplitPlan(model, tuple(shards), first.byteorder, exact=frame is None)


def write_split(
    plan: SplitPlan,
    *,
    force: bool = False,
    restart: bool = False,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> None:
    """Write the shards of a plan: all of them appear together, or none does.

    Args:
        force: replace existing files.
        restart: discard what an interrupted run left, rather than continue it.
        progress: called with the number of bytes just written.
        say: called with a line when an interrupted run is continued, or can be.

    Raises:
        OutputError: a shard exists, or cannot be written.
        FormatError: the source is damaged or was changed.
    """
    files = [(shard.path, shard.layout.size) for shard in plan.shards]
    digest = digest_of((shard.layout for shard in plan.shards), plan.source)
    inputs = plan.source.paths
    with resumable_outputs(files, digest, force=force, inputs=inputs, restart=restart, say=say) as journal:
        first = 0
        for output, shard in zip(journal.outputs, plan.shards, strict=True):
            copy_tensors(journal, output, shard.layout, shard.tensors, first, progress)
            first += len(shard.tensors)


def merge(
    source: str | Path,
    target: str | Path,
    *,
    keep_keys: bool = False,
    force: bool = False,
    restart: bool = False,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> Model:
    """Write a split model to one file, with the bytes of the file that was split.

    Args:
        source: any of the shards.
        target: the file to write.
        keep_keys: keep the ``split.*`` keys, with a count of 0, which gives the bytes of llama-gguf-split.
        force, restart, progress, say: as for ``write_split``.

    Returns:
        the merged model.

    Raises:
        FormatError: shards are missing or do not belong together, or ``source`` is not a shard.
        OutputError: the target exists, or cannot be written.
    """
    headers, model = read_headers(source), read_gguf(source)
    first = headers[0]
    count = first.metadata.get(SPLIT_COUNT)
    if count is None or count.data == 0:
        raise FormatError("is a whole model, not a shard of one", path=source)
    model = replace(model, metadata=without_split(model.metadata))
    place = None if keep_keys else _restored(first, model)
    if place is None:
        metadata = dict(model.metadata)
        if keep_keys:
            metadata |= {key: first.metadata[key] for key in (SPLIT_NO, SPLIT_TENSORS_COUNT) if key in first.metadata}
            metadata[SPLIT_COUNT] = Value(ValueType.UINT16, 0)
        place = layout(metadata, _infos(model.tensors), version=first.version, byteorder=first.byteorder)
    write_laid_out(target, model, place, force=force, restart=restart, done=progress, say=say)
    return model


def _infos(tensors: Iterable[Tensor]) -> list[TensorInfo]:
    return [TensorInfo(tensor.name, tensor.shape, tensor.qtype) for tensor in tensors]


def _frame_to_keep(headers: Sequence[GGUFHeader], metadata: Metadata, model: Model) -> Value | None:
    """The bytes of the source that the first shard must keep, if any."""
    if len(headers) > 1:
        return headers[0].metadata.get(FRAME)
    if _is_regular(headers[0], metadata, model):
        return None
    raw = zlib.compress(_frame(headers[0]), 9)
    return Value(ValueType.ARRAY, np.frombuffer(raw, np.uint8), ValueType.UINT8)


def _is_regular(header: GGUFHeader, metadata: Metadata, model: Model) -> bool:
    """Whether merging would write exactly the bytes of this file."""
    try:
        place = layout(metadata, _infos(model.tensors), version=header.version, byteorder=header.byteorder)
    except PlanError:
        return False  # the shards' layouts will say what is wrong, if it stands in their way too
    offsets = tuple(entry.offset for entry in header.tensors)
    if (place.offsets, place.size) != (offsets, header.file_size):
        return False
    frame = _frame(header)
    return frame.startswith(place.header) and not any(frame[len(place.header) :])


def _frame(header: GGUFHeader) -> bytes:
    """All bytes of a file outside its tensors, in order."""
    spans = _gaps(header)
    size = sum(end - start for start, end in spans)
    if size > _MAX_FRAME:
        raise FormatError(
            f"{size} bytes belong to no tensor", path=header.path, hint="rewrite it with quantmill convert"
        )
    with header.path.open("rb") as file:
        return b"".join(os.pread(file.fileno(), end - start, start) for start, end in spans)


def _gaps(header: GGUFHeader) -> list[tuple[int, int]]:
    """The spans (start, end) outside the tensors."""
    spans = []
    at = 0
    for entry in sorted(header.tensors, key=lambda e: (e.offset, e.nbytes)):
        if entry.offset > at:
            spans.append((at, entry.offset))
        at = max(at, entry.offset + entry.nbytes)
    if header.file_size > at:
        spans.append((at, header.file_size))
    return spans


def _restored(first: GGUFHeader, model: Model) -> Layout | None:
    """The layout of the file that was split, if the first shard keeps it and nothing has been changed since."""
    kept = first.metadata.get(FRAME)
    if kept is None or kept.item is not ValueType.UINT8:
        return None
    unpack = zlib.decompressobj()
    try:
        room = min(_MAX_FRAME, sum(tensor.nbytes for tensor in model) + first.file_size + ROOM // 2)
        frame = unpack.decompress(np.asarray(kept.data).tobytes(), room)
        if not unpack.eof:
            return None
        header = parse_frame(first.path, frame, sum(tensor.nbytes for tensor in model))
    except (zlib.error, FormatError):
        return None
    if _keys(without_split(header.metadata)) != _keys(model.metadata):
        return None  # a key was set in the shard
    entries = {entry.name: entry for entry in header.tensors}
    if [(t.name, t.shape, t.qtype) for t in model] != [(e.name, e.shape, e.qtype) for e in header.tensors]:
        return None
    pieces, taken = [], 0
    for start, end in _gaps(header):
        pieces.append((start, frame[taken : taken + end - start]))
        taken += end - start
    if taken != len(frame) or not pieces:
        return None
    offsets = tuple(entries[tensor.name].offset for tensor in model)
    between = tuple(pieces[1:])
    return Layout(pieces[0][1], offsets, header.file_size, header.alignment, header.byteorder, between)


def _keys(metadata: Metadata) -> dict[str, bytes]:
    return {key: encode_value(value) for key, value in metadata.items()}
