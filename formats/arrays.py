"""Make tensors and models from numpy arrays: for a file of one's own, an experiment, or an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .gguf.keys import GENERAL_ARCHITECTURE, typed
from .gguf.names import parse_name
from .ir import Bytes, Model, Tensor, Value
from .qtypes import QType, qtype

_FLOATS = {"float32": "F32", "float16": "F16", "float64": "F64"}

Plain = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]


def tensor_from_array(name: str, array: NDArray[np.generic], type: str | QType | None = None) -> Tensor:
    """Make a tensor of an array in memory.

    Args:
        name: the tensor's GGUF name, such as ``blk.0.attn_q.weight``; it decides the role and the layer.
        array: float32, float16 or float64 of any shape, the longest contiguous axis last; or uint8 blocks of shape
            [..., row_bytes], as ``encode`` gives them, for which ``type`` is needed.
        type: the type that uint8 blocks are in, such as ``Q4_K``.

    Raises:
        FormatError: the array's dtype is another one, or its rows are not whole blocks of ``type``.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> tensor = tensor_from_array("blk.0.attn_q.weight", np.ones((2, 32), np.float32))
        >>> tensor.role, tensor.layer, tensor.shape, tensor.qtype.name
        (<Role.ATTN_Q: 'attn_q'>, 0, (2, 32), 'F32')
    """
    role, layer = parse_name(name)
    if type is None:
        if array.dtype.name not in _FLOATS:
            problem = f"an array of {array.dtype.name} is not an array of floats"
            raise FormatError(problem, where=name, hint="give the type that uint8 blocks are in")
        stored, shape = qtype(_FLOATS[array.dtype.name]), array.shape
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    else:
        stored = qtype(type) if isinstance(type, str) else type
        row_bytes = array.shape[-1] if array.shape else 0
        if array.dtype != np.uint8 or not row_bytes or row_bytes % stored.block_bytes:
            problem = f"an array of {array.dtype.name} with {row_bytes} in a row is not whole blocks of {stored.name}"
            raise FormatError(problem, where=name, hint=f"a block has {stored.block_bytes} bytes")
        shape = (*array.shape[:-1], row_bytes // stored.block_bytes * stored.block_size)
        raw = np.ascontiguousarray(array)
    rows: Bytes = raw.reshape(-1).view(np.uint8).reshape(-1, stored.row_bytes(shape[-1] if shape else 1))
    return Tensor(name, role, layer, shape, stored, lambda a, b: rows[a:b])


def model_from_arrays(
    arch: str,
    arrays: Mapping[str, NDArray[np.generic]],
    metadata: Mapping[str, Value | Plain] | None = None,
    *,
    path: str | Path = "memory",
) -> Model:
    """Make a model of arrays in memory, to be written or quantized as any other.

    Args:
        arch: the architecture's GGUF name, such as ``llama``.
        arrays: GGUF tensor names and float arrays; see ``tensor_from_array``.
        metadata: full keys and their values. A plain value gets the type that llama.cpp's converters give the key.
        path: the name of the model in messages.

    Raises:
        FormatError: an array is not of floats. QuantmillError: a value does not fit its key.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> arrays = {"output_norm.weight": np.ones(64, np.float32)}
        >>> model = model_from_arrays("llama", arrays, {"llama.block_count": 0})
        >>> [tensor.name for tensor in model], model.hparam("block_count")
        (['output_norm.weight'], 0)
    """
    keys = {GENERAL_ARCHITECTURE: arch, **(metadata or {})}
    values = {key: value if isinstance(value, Value) else typed(key, value) for key, value in keys.items()}
    tensors = tuple(tensor_from_array(name, array) for name, array in arrays.items())
    return Model(arch, values, tensors, Path(path))
