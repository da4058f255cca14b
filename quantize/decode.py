"""A model seen as floats: quantized tensors decode as they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..formats.errors import QuantmillError
from ..formats.ir import Bytes, Model, Tensor
from ..formats.qtypes import F32, QType
from .kernels import ENCODABLE, kernel_for


def as_float(model: Model, qtype: QType | None = None) -> Model:
    """The model with every quantized tensor decoded, lazily; in order, metadata as it is.

    Args:
        model: any.
        qtype: the float type to decode to, F32 unless given. If given, float matrices take it too; vectors and tensors
            of other types (integers) stay as they are.

    Raises:
        QuantmillError: a tensor is in a type without a decoder.
    """
    target = F32 if qtype is None else qtype
    assert target.is_float, target
    return replace(model, tensors=tuple(_decoded(tensor, target, qtype is not None) for tensor in model.tensors))


def _decoded(tensor: Tensor, target: QType, floats_too: bool) -> Tensor:
    source = tensor.qtype
    if source is target or not (source.is_quantized or (floats_too and source.is_float and len(tensor.shape) > 1)):
        return tensor
    if source.name not in ENCODABLE:
        raise QuantmillError(f"type {source} cannot be decoded", where=tensor.source or tensor.name)

    def read(a: int, b: int) -> Bytes:
        rows = tensor.rows(a, b)
        decoded = np.empty((b - a, tensor.width), np.float32)
        kernel_for(source).decode(np.ascontiguousarray(rows), decoded)
        if target is F32:
            return decoded.view(np.uint8)
        out = np.empty((b - a, target.row_bytes(tensor.width)), np.uint8)
        kernel_for(target).encode(decoded.view(np.uint8), F32, None, out)
        return out

    return replace(tensor, qtype=target, read=read)
