"""Check a GGUF file more strictly than a reader needs to: the check behind ``quantmill verify --strict``.

The reader refuses what it cannot read and tolerates the rest, as llama.cpp does. Here everything that it tolerates is
an error, with its place and its remedy. Source: docs/gguf.md of ggml, and gguf.cpp and llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..ir import Model, Tensor, TokenType, Value, ValueData, ValueType
from ..storage.source import SourceFile
from .header import GGUFHeader
from .keys import FILE_TYPES, GENERAL_ARCHITECTURE, GENERAL_FILE_TYPE, KeyType, is_token_id, key_type, type_name
from .reader import read_gguf, read_headers
from .vocab import tokenizer_from_metadata
from .wire import align

_MAX_NAME = 63  # GGML_MAX_NAME without the final zero
_KEY = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_PIECE = 4 << 20  # bytes of a gap, or of rows, checked at a time
_REWRITE = "rewrite it: quantmill convert FILE NEW.gguf"
_SET = "quantmill set-metadata corrects it"
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
    for find in (_architecture, _tokenizer, _scales):
        yield from (_error(path, finding) for finding in find(model))


def _error(path: Path, finding: Finding) -> FormatError:
    return FormatError(finding.problem, path=path, where=finding.where, hint=finding.hint)


def _names(header: GGUFHeader) -> Iterator[Finding]:
    for key in header.metadata:
        if not _KEY.fullmatch(key):
            yield Finding(f"metadata key {key!r}", "is not made of words joined by dots", _SET)
    for entry in header.tensors:
        where = f"tensor {entry.name!r}"
        if not entry.name or len(entry.name.encode("utf-8", "surrogateescape")) > _MAX_NAME:
            yield Finding(where, f"a name must have 1 to {_MAX_NAME} bytes; llama.cpp refuses the file", _REWRITE)
        if not entry.shape or not all(entry.shape):
            yield Finding(where, f"is empty: its shape is {list(entry.shape)}", _REWRITE)


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
    for key, value in header.metadata.items():
        where = f"metadata key {key!r}"
        wanted = key_type(key)
        if wanted is not None and not _is_of(value, wanted):
            yield Finding(where, f"is {type_name(value.type, value.item)}; must be {type_name(*wanted)}", _SET)
        if isinstance(value.data, float) and not np.isfinite(value.data):
            yield Finding(where, f"is {value.data}", _SET)
        if isinstance(value.data, np.ndarray) and value.data.dtype.kind == "f" and not np.isfinite(value.data).all():
            place = int(np.flatnonzero(~np.isfinite(value.data))[0])
            yield Finding(where, f"entry {place} is {value.data[place]}", _GET)
        if (bad := next((i for i, text in enumerate(value.texts) if not _is_utf8(text)), None)) is not None:
            yield Finding(where, f"entry {bad} is not UTF-8" if value.item else "is not UTF-8", _GET)
    if header.alignment % 8:
        yield Finding("metadata key 'general.alignment'", f"{header.alignment} is not a multiple of 8", _REWRITE)


def _is_of(value: Value, wanted: KeyType) -> bool:
    """Whether a value has a type. A hyper-parameter may be an array, and a whole number signed; an empty array always
    fits.
    """
    if value.type is ValueType.ARRAY and not len(value.items):
        return wanted[0] is ValueType.ARRAY
    found = {value.item or value.type, wanted[1] or wanted[0]}
    return (value.type is ValueType.ARRAY or wanted[0] is not ValueType.ARRAY) and (
        len(found) == 1 or found <= {ValueType.UINT32, ValueType.INT32}
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _architecture(model: Model) -> Iterator[Finding]:
    if not model.arch:
        yield Finding(f"metadata key {GENERAL_ARCHITECTURE!r}", "is missing", _SET)
        return
    counts = [_counted(lambda: model.n_layers), _counted(lambda: model.n_expert), _counted(lambda: model.n_gqa)]
    yield from (count for count in counts if isinstance(count, Finding))
    layers = counts[0]
    highest = max((tensor.layer for tensor in model if tensor.layer is not None), default=-1)
    if isinstance(layers, int) and highest >= 0 and highest >= layers:
        yield Finding(f"metadata key '{model.arch}.block_count'", f"is {layers}; there is a blk.{highest}", _SET)
    level = model.get(GENERAL_FILE_TYPE)
    if level is not None and level not in FILE_TYPES.values():
        yield Finding(f"metadata key {GENERAL_FILE_TYPE!r}", f"{level} is not the number of a level", _SET)
    embedding = next((t for t in model if t.name == "token_embd.weight"), None)
    width = model.hparam("embedding_length")
    if embedding is not None and isinstance(width, int) and embedding.width != width:
        problem = f"rows of {embedding.width}; {model.arch}.embedding_length is {width}"
        yield Finding("tensor 'token_embd.weight'", problem, _GET)


def _counted(count: Callable[[], int]) -> int | Finding:
    try:
        return count()
    except FormatError as error:
        return Finding(f"metadata key {error.where!r}", error.problem, _SET)


def _tokenizer(model: Model) -> Iterator[Finding]:
    """Arrays must be as long as the vocabulary, the vocabulary as long as the embedding, ids valid, texts distinct."""
    try:
        tokenizer = tokenizer_from_metadata(model.metadata)
    except FormatError as error:
        yield Finding(f"metadata key {error.where!r}", error.problem, _GET)
        return
    if tokenizer is None:
        return
    n = len(tokenizer.tokens)
    rows = next((t.n_rows for t in model if t.name == "token_embd.weight"), n)
    where = "metadata key 'tokenizer.ggml.tokens'"
    if rows != n:
        yield Finding(where, f"{n} tokens, the embedding has {rows} rows; llama.cpp refuses the file", _GET)
    if len(set(tokenizer.tokens)) != n:
        yield Finding(where, f"{n - len(set(tokenizer.tokens))} tokens occur twice", _GET)
    if not n:
        yield Finding(where, "an empty vocabulary", _GET)
    if tokenizer.model in ("gpt2", "gemma4") and not tokenizer.merges:
        yield Finding("metadata key 'tokenizer.ggml.merges'", f"a {tokenizer.model} tokenizer needs merges", _GET)
    if tokenizer.model in ("llama", "t5") and tokenizer.scores is None:
        yield Finding("metadata key 'tokenizer.ggml.scores'", f"a {tokenizer.model} tokenizer needs scores", _GET)
    for place, merge in enumerate(tokenizer.merges or ()):
        if " " not in merge[1:]:
            yield Finding("metadata key 'tokenizer.ggml.merges'", f"entry {place}, {merge!r}, is not a pair", _GET)
            break
    yield from _token_types(tokenizer.model, tokenizer.types)
    for key, value in model.metadata.items():
        if is_token_id(key) and not _is_token(value.data, n):
            yield Finding(f"metadata key {key!r}", f"{value.data!r} is not one of {n} tokens", _SET)


def _is_token(data: ValueData, n_tokens: int) -> bool:
    return isinstance(data, int) and not isinstance(data, bool) and 0 <= data < n_tokens


def _token_types(kind: str, types: np.ndarray[Any, np.dtype[np.int32]]) -> Iterator[Finding]:
    n_bytes = int(np.count_nonzero(types == TokenType.BYTE))
    if kind == "llama" and n_bytes not in (0, 256):
        problem = f"{n_bytes} tokens are bytes; a SentencePiece vocabulary has 256 of them, or none"
        yield Finding("metadata key 'tokenizer.ggml.token_type'", problem, _GET)


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
