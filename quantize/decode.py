"""Decode encoded blocks to floats: arrays, and the tensors of a model as they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import PlanError, QuantmillError
from ..formats.gguf.factors import FactoredTensor, with_factors
from ..formats.ir import Bytes, Model, Tensor
from ..formats.qtypes import F32, QType
from ..formats.qtypes import qtype as qtype_named
from .kernels import ENCODABLE, kernel_for


def decode(blocks: Bytes, qtype: str | QType) -> NDArray[np.float32]:
    """Decode rows of blocks of a tensor type.

    Args:
        blocks: uint8 [rows, row_bytes] or [row_bytes], little-endian, in the layout of ggml-common.h; ``row_bytes``
            must be a multiple of the bytes in a block.
        qtype: the type or its name in any case, such as ``"Q4_K"``.

    Returns:
        float32 [rows, width], or [width] for one row.

    Raises:
        PlanError: the shape or the dtype does not fit.
        QuantmillError: the type is unknown or has no kernel.

    Example:
        >>> import numpy as np
        >>> from quantmill.quantize.decode import decode
        >>> from quantmill.quantize.encode import encode
        >>> decode(encode(np.full((1, 32), 127.0), "Q8_0"), "Q8_0")[0, :3]
        array([127., 127., 127.], dtype=float32)
    """
    source = qtype_named(qtype) if isinstance(qtype, str) else qtype
    kernel = kernel_for(source)
    array = np.asarray(blocks)
    if array.dtype != np.uint8:
        raise PlanError(f"blocks must be uint8, not {array.dtype}", hint="view(numpy.uint8) gives an array's bytes")
    if array.ndim not in (1, 2):
        raise PlanError(f"blocks must have 1 or 2 dimensions, not {array.ndim}", hint="decode each matrix by itself")
    row_bytes = array.shape[-1]
    if row_bytes % source.block_bytes:
        raise PlanError(f"{row_bytes} bytes in a row are not a multiple of {source}'s block of {source.block_bytes}")
    width = row_bytes // source.block_bytes * source.block_size
    out = np.empty((len(array) if array.ndim == 2 else 1, width), np.float32)
    if out.size:
        kernel.decode(array.reshape(len(out), row_bytes), out)
    return out.reshape(*array.shape[:-1], width)


def as_float(model: Model, qtype: QType | None = None) -> Model:
    """Return the model with every quantized tensor decoded, lazily. Order and metadata stay as they are.

    A factor that a file holds beside a weight is multiplied into it.

    Args:
        model: any model.
        qtype: the float type to decode to; F32 if None. If it is given, float matrices are converted to it too; vectors
            and tensors of other types (integers) stay as they are.

    Raises:
        QuantmillError: a tensor is in a type that cannot be decoded.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from quantmill.formats.ir import Model, Role, Tensor
        >>> from quantmill.formats.qtypes import BY_NAME
        >>> from quantmill.quantize.decode import as_float
        >>> from quantmill.quantize.encode import encode
        >>> blocks = encode(np.full((2, 32), 127.0), "Q8_0")
        >>> tensor = Tensor("output.weight", Role.OUTPUT, None, (2, 32), BY_NAME["Q8_0"], lambda a, b: blocks[a:b])
        >>> (decoded,) = as_float(Model("llama", {}, (tensor,), Path("tiny.gguf")))
        >>> decoded.qtype.name, decoded.rows(0, 1).view(np.float32)[0, :3]
        ('F32', array([127., 127., 127.], dtype=float32))
    """
    target = F32 if qtype is None else qtype
    assert target.is_float, target
    return replace(model, tensors=tuple(_decoded(tensor, target, qtype is not None) for tensor in with_factors(model)))


def decoded(tensor: Tensor) -> Tensor:
    """Return a quantized tensor as F32, lazily; others as they are."""
    return _decoded(tensor, F32, False)


def _decoded(tensor: Tensor, target: QType, floats_too: bool) -> Tensor:
    source = tensor.qtype
    factored = tensor if isinstance(tensor, FactoredTensor) else None
    wanted = source.is_quantized or (floats_too and source.is_float and len(tensor.shape) > 1)
    if factored is None and (source is target or not wanted):
        return tensor
    if source.name not in ENCODABLE:
        raise QuantmillError(f"type {source} cannot be decoded", where=tensor.source or tensor.name)

    def read(a: int, b: int) -> Bytes:
        rows = tensor.rows(a, b)
        decoded = np.empty((b - a, tensor.width), np.float32)
        kernel_for(source).decode(np.ascontiguousarray(rows), decoded)
        if factored is not None:
            decoded *= factored.row_factors(a, b)
        if target is F32:
            return decoded.view(np.uint8)
        out = np.empty((b - a, target.row_bytes(tensor.width)), np.uint8)
        kernel_for(target).encode(decoded.view(np.uint8), F32, None, out)
        return out

    if factored is not None:
        return replace(factored, qtype=target, read=read, factors=(1.0,))
    return replace(tensor, qtype=target, read=read)
