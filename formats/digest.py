"""Hash a model's tensors and metadata, independently of the file they are stored in.

GGUF version, byte order, alignment, padding, shards and the order of tensors and keys do not change the hashes:

- of a tensor: SHA-256 of its bytes, row after row, little-endian, without padding;
- ``tensors``: SHA-256 of a line for each tensor, sorted by the bytes of its name:
  ``NAME NUL TYPE NUL DIMS NUL HASH LF``, the dims separated by commas, rows first, without leading dims of 1;
- ``metadata``: SHA-256 of the keys with their values, sorted by the bytes of the key, each as GGUF writes it,
  little-endian; without ``general.alignment`` and ``split.*``, which describe the layout;
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
    """A model's SHA-256 hashes in hexadecimal.

    Args:
        of: the hash of each tensor by name, in the file's order.
        tensors: the hash of all tensors.
        metadata: the hash of all keys and values.
        model: the hash of both.
    """

    of: Mapping[str, str]
    tensors: str
    metadata: str
    model: str


def model_digests(
    model: Model, *, threads: int | None = None, progress: Callable[[int], object] | None = None
) -> Digests:
    """Hash a model. Tensors are read a few megabytes at a time, several in parallel.

    Args:
        threads: that read and hash; None for Python's default.
        progress: called with the number of bytes just hashed, from any thread.

    Raises:
        FormatError: the file is damaged or was changed while it was read.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> from quantmill.formats.digest import model_digests
        >>> model = model_from_arrays("llama", {"output_norm.weight": np.ones(8, np.float32)})
        >>> model_digests(model).of["output_norm.weight"][:16]
        '4f05df05f8da9356'
    """
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip((t.name for t in model), pool.map(lambda t: tensor_digest(t, progress), model), strict=True))
    lines = [_line(tensor, found[tensor.name]) for tensor in sorted(model, key=lambda t: _raw(t.name))]
    tensors, metadata = _sha256(b"".join(lines)), metadata_digest(model.metadata)
    return Digests(found, tensors, metadata, _sha256(f"tensors {tensors}\nmetadata {metadata}\n".encode()))


def tensor_digest(tensor: Tensor, progress: Callable[[int], object] | None = None) -> str:
    """Hash a tensor's bytes, row after row, little-endian."""
    digest = hashlib.sha256()
    for a, b in tensor.row_chunks(_CHUNK):
        rows = np.ascontiguousarray(tensor.rows(a, b))
        digest.update(rows.data)
        if progress is not None:
            progress(rows.nbytes)
    return digest.hexdigest()


def metadata_digest(metadata: Metadata) -> str:
    """Hash the keys and their typed values, sorted by key."""
    kept = {key: value for key, value in without_split(metadata).items() if key != GENERAL_ALIGNMENT}
    return _sha256(b"".join(encode_string(key) + encode_value(kept[key]) for key in sorted(kept, key=_raw)))


def _line(tensor: Tensor, digest: str) -> bytes:
    dims = ",".join(map(str, ggml_shape(tensor.shape)))
    return b"\0".join([_raw(tensor.name), tensor.qtype.name.encode(), dims.encode(), digest.encode()]) + b"\n"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
