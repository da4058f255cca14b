"""Hashes of what a model is, whatever file it stands in.

Version, byte order, alignment, padding, shards, and the order of tensors and keys change none of them:

- a tensor's: SHA-256 of its bytes, row after row, little-endian, without padding;
- ``tensors``: SHA-256 of a line for each tensor, sorted by the bytes of its name:
  ``NAME NUL TYPE NUL DIMS NUL HASH LF``, dims with commas, rows first, without leading ones;
- ``metadata``: SHA-256 of the keys with their values, sorted by the bytes of the key, each as GGUF writes it,
  little-endian; without ``general.alignment`` and ``split.*``, which are the layout's;
- ``model``: SHA-256 of ``tensors HASH LF metadata HASH LF``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .gguf.keys import GENERAL_ALIGNMENT
from .gguf.shards import without_split
from .gguf.wire import encode_string, encode_value
from .gguf.writer import ggml_shape
from .ir import Metadata, Model, Tensor

_CHUNK = 4 << 20  # bytes hashed at a time: a thread holds no more


@dataclass(frozen=True)
class Digests:
    """SHA-256 in hexadecimal; ``of`` by tensor, in the file's order."""

    of: Mapping[str, str]
    tensors: str
    metadata: str
    model: str


def model_digests(
    model: Model, *, threads: int | None = None, progress: Callable[[int], object] | None = None
) -> Digests:
    """Hash a model; tensors are read in chunks, each by one thread.

    Args:
        threads: None for as many as Python chooses.
        progress: called with the bytes just hashed, from any thread.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip((t.name for t in model), pool.map(lambda t: tensor_digest(t, progress), model), strict=True))
    lines = [_line(tensor, found[tensor.name]) for tensor in sorted(model, key=lambda t: _raw(t.name))]
    tensors, metadata = _sha256(b"".join(lines)), metadata_digest(model.metadata)
    return Digests(found, tensors, metadata, _sha256(f"tensors {tensors}\nmetadata {metadata}\n".encode()))


def tensor_digest(tensor: Tensor, progress: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a tensor's bytes."""
    digest = hashlib.sha256()
    for a, b in tensor.row_chunks(_CHUNK):
        rows = np.ascontiguousarray(tensor.rows(a, b))
        digest.update(rows.data)
        if progress is not None:
            progress(rows.nbytes)
    return digest.hexdigest()


def metadata_digest(metadata: Metadata) -> str:
    """SHA-256 of the keys and values."""
    kept = {key: value for key, value in without_split(metadata).items() if key != GENERAL_ALIGNMENT}
    return _sha256(b"".join(encode_string(key) + encode_value(kept[key]) for key in sorted(kept, key=_raw)))


def _line(tensor: Tensor, digest: str) -> bytes:
    dims = ",".join(map(str, ggml_shape(tensor.shape)))
    return b"\0".join([_raw(tensor.name), tensor.qtype.name.encode(), dims.encode(), digest.encode()]) + b"\n"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
