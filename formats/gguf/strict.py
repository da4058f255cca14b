"""Check a GGUF file more strictly than a reader needs to: the check behind ``quantmill verify --strict``.

The reader refuses what it cannot read and tolerates the rest. Here everything that it tolerates is an error, with its
place and its remedy: what llama.cpp refuses to load (of the metadata, see ``loadable.py``), and what cannot be meant.
Source: docs/gguf.md of ggml, and gguf.cpp and llama-model-loader.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..errors import FormatError
from ..ir import Model, Role, Tensor, ValueType
from ..storage.source import SourceFile
from .header import GGUFHeader
from .image_archs import DECODED, MAX_NAME, ORIGINAL_SHAPE, is_image
from .keys import GENERAL_ALIGNMENT, GENERAL_ARCHITECTURE
from .loadable import check_metadata
from .loadable_towers import tensor_problems
from .reader import read_gguf, read_headers
from .wire import align

_MAX_NAME = 63  # GGML_MAX_NAME without the final zero
_INTEGERS = frozenset({"I8", "I16", "I32", "I64"})
_NOT_WEIGHTS = _INTEGERS | {"F64", "Q8_1", "Q8_K"}
_PIECE = 4 << 20  # bytes of a gap, or of rows, checked at a time
_REWRITE = "rewrite it: quantmill convert FILE NEW.gguf"
_SET = "gguf-set-metadata corrects it"
_GET = "get the file, or the checkpoint, again and convert it"


@dataclass(frozen=True)
class Finding:
    """One error. ``str()`` gives its line, without the file's name."""

    where: str
    problem: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} ({self.hint})"


def check_gguf(path: Path) -> Iterator[FormatError]:
    """Find everything that is wrong with a file, or with all shards of a split model.

    Yields:
        errors that name the file, the place and the remedy.

    Raises:
        FormatError: the file cannot be read at all.
    """
    headers = read_headers(path)
    for header in headers:
        for check in (_names, _order, _padding, _metadata):
            yield from (_error(header.path, finding) for finding in check(header))
    model = read_gguf(path)
    for find in (_shapes, _scales):
        yield from (_error(path, finding) for finding in find(model))


def _error(path: Path, finding: Finding) -> FormatError:
    return FormatError(finding.problem, path=path, where=finding.where, hint=finding.hint)


def _names(header: GGUFHeader) -> Iterator[Finding]:
    arch = header.metadata.get(GENERAL_ARCHITECTURE)
    image = arch is not None and isinstance(arch.data, str) and is_image(arch.data)
    most = MAX_NAME if image else _MAX_NAME
    for entry in header.tensors:
        where = f"tensor {entry.name!r}"
        if "\0" in entry.name:
            yield Finding(where, f"its name has a zero byte, at which {_reader(image)} cuts it", _REWRITE)
        if not entry.name or len(entry.name.encode("utf-8", "surrogateescape")) > most:
            yield Finding(where, f"a name must have 1 to {most} bytes; {_reader(image)} refuses the file", _REWRITE)
        if not entry.shape or not all(entry.shape):
            yield Finding(where, f"is empty: its shape is {list(entry.shape)}", _REWRITE)


def _reader(image: bool) -> str:
    return "ComfyUI-GGUF" if image else "llama.cpp"


def _order(header: GGUFHeader) -> Iterator[Finding]:
    """Tensors must follow each other in the order of their descriptions, with only padding between them."""
    expected = header.data_start
    for entry in header.tensors:
        if entry.offset != expected:
            problem = f"starts at byte {entry.offset}, must start at {expected}; llama.cpp refuses the file"
            yield Finding(f"tensor {entry.name!r}", problem, _REWRITE)
        expected = align(entry.offset + entry.nbytes, header.alignment)
    end = max((entry.offset + entry.nbytes for entry in header.tensors), default=header.data_start)
    padded = align(end, header.alignment)
    if header.file_size > padded:
        problem = f"{header.file_size - padded} bytes after the end of the last tensor"
        yield Finding(f"byte {padded}", problem, _REWRITE)
    elif end < header.file_size < padded or (header.tensors and header.file_size < padded):
        yield Finding(f"byte {header.file_size}", f"the last tensor's padding ends at byte {padded}", _REWRITE)


def _padding(header: GGUFHeader) -> Iterator[Finding]:
    """All bytes between the header, the tensors and the end of the last padding must be zero."""
    file = SourceFile(header.path)
    at = header.infos[1]
    ends = [(entry.offset, entry.offset + entry.nbytes) for entry in sorted(header.tensors, key=lambda e: e.offset)]
    last = align(ends[-1][1] if ends else at, header.alignment)
    for start, end in [*ends, (min(last, header.file_size), last)]:
        for a in range(at, start, _PIECE):
            piece = file.read(a, min(_PIECE, start - a))
            if piece.any():
                place = a + int(np.flatnonzero(piece)[0])
                yield Finding(f"byte {place}", f"padding is {int(piece[place - a])}, not 0", _REWRITE)
                break
        at = max(at, end)


def _metadata(header: GGUFHeader) -> Iterator[Finding]:
    for found in check_metadata(header.metadata):
        hint = _GET if found.remade and found.key != GENERAL_ALIGNMENT else _REWRITE if found.remade else _SET
        yield Finding(f"metadata key {found.key!r}", found.problem, hint)


def _shapes(model: Model) -> Iterator[Finding]:
    """Tensors must fit the numbers of the metadata, and be of types that llama.cpp computes with."""
    if model.get("general.type") not in (None, "model", "mmproj"):
        return
    if is_image(model.arch):
        yield from _image_tensors(model)
        return
    for tensor in model:
        if len(tensor.shape) == 1 and tensor.qtype.name != "F32" and tensor.qtype.name not in _INTEGERS:
            yield Finding(f"tensor {tensor.name!r}", f"a vector of {tensor.qtype}; llama.cpp needs F32", _REWRITE)
        elif tensor.role is Role.FFN_GATE_TID2EID and tensor.qtype.name == "I32":
            continue  # a table of experts
        elif len(tensor.shape) > 1 and tensor.qtype.name in _NOT_WEIGHTS:
            yield Finding(f"tensor {tensor.name!r}", f"llama.cpp has no weights of {tensor.qtype}", _GET)
    if model.arch == "clip":
        for key, problem in tensor_problems(model.metadata, [tensor.name for tensor in model]):
            yield Finding(f"metadata key {key!r}", problem, _SET)
        return
    embedding = next((t for t in model if t.name == "token_embd.weight"), None)
    if embedding is None:
        yield Finding("tensor 'token_embd.weight'", "is missing; llama.cpp refuses the file", _GET)
    width = model.hparam("embedding_length")
    if embedding is not None and isinstance(width, int) and embedding.width != width:
        problem = f"rows of {embedding.width}; {model.arch}.embedding_length is {width}"
        yield Finding("tensor 'token_embd.weight'", problem, _GET)
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if embedding is not None and tokens is not None and embedding.n_rows != len(tokens.texts):
        problem = f"{len(tokens.texts)} tokens, the embedding has {embedding.n_rows} rows; llama.cpp refuses the file"
        yield Finding("metadata key 'tokenizer.ggml.tokens'", problem, _GET)
    yield from _blocks(model)


def _image_tensors(model: Model) -> Iterator[Finding]:
    """Tensors must be of types that the loaders of image models decode, and have the shapes that the file says."""
    for tensor in model:
        if tensor.qtype.name not in DECODED:
            problem = f"is {tensor.qtype}, which diffusers does not decode, and ComfyUI-GGUF only slowly"
            yield Finding(f"tensor {tensor.name!r}", problem, _GET)
    counts = {f"{ORIGINAL_SHAPE}{tensor.name}": tensor.n_weights for tensor in model}
    for key, value in model.metadata.items():
        if not key.startswith(ORIGINAL_SHAPE):
            continue
        shape = value.data if value.item is ValueType.INT32 and isinstance(value.data, np.ndarray) else np.zeros(1)
        if key not in counts or prod(int(n) for n in shape.tolist()) != counts[key]:
            yield Finding(f"metadata key {key!r}", "is not the shape of a tensor of the file", _GET)


def _blocks(model: Model) -> Iterator[Finding]:
    try:
        layers, extra = model.n_layers, model.number("nextn_predict_layers")
        layers = 2 * model.number("hrm.layers_per_stack") or layers  # HRM counts how often its two stacks' run
    except FormatError:
        return  # said of the key's type
    highest = max((tensor.layer for tensor in model if tensor.layer is not None), default=-1)
    if highest >= layers:
        yield Finding(f"metadata key '{model.arch}.block_count'", f"is {layers}; there is a blk.{highest}", _SET)
    elif 0 <= highest < layers - extra - 1 and model.arch != "deci":  # whose last blocks may be empty
        yield Finding(f"metadata key '{model.arch}.block_count'", f"is {layers}; the last is blk.{highest}", _SET)


def _scales(model: Model) -> Iterator[Finding]:
    """All floats must be finite: the scales and minima of quantized types, the weights of float types."""
    for tensor in model:
        fields = [name for name, dtype, _ in tensor.qtype.fields if np.dtype(dtype).kind == "f"]
        if tensor.n_weights and (fields or tensor.qtype.name == "BF16"):
            yield from _not_finite(tensor, fields)


def _not_finite(tensor: Tensor, fields: list[str]) -> Iterator[Finding]:
    for a, b in tensor.row_chunks(_PIECE):
        rows = tensor.rows(a, b)
        if tensor.qtype.name == "BF16":
            finite = {"weight": (rows.reshape(-1).view("<u2") & 0x7F80) != 0x7F80}
        else:
            blocks = np.ascontiguousarray(rows).reshape(-1).view(tensor.qtype.block)
            finite = {name: np.isfinite(blocks[name]).reshape(len(blocks), -1).all(axis=1) for name in fields}
        for name, good in finite.items():
            if not good.all():
                row, block = divmod(int(np.flatnonzero(~good)[0]), tensor.width // tensor.qtype.block_size)
                yield Finding(
                    f"tensor {tensor.name!r}", f"row {a + row}, block {block}: its {name} is not finite", _GET
                )
                return
