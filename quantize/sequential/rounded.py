"""A tensor as it will decode once it is encoded, before it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...formats.ir import Bytes, Tensor
from ...formats.qtypes import F32, QType
from ..encode import bad_weight, encode_checked
from ..kernels import kernel_for


def rounded(tensor: Tensor, kind: QType) -> Tensor:
    """Return a tensor of a float type with its weights as a type holds them, plainly encoded; rows are made when read.

    Args:
        tensor: of a float type.
        kind: the type to round to. Where it needs importance, all columns are alike.

    Example:
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.qtypes import BY_NAME
        >>> row = rounded(tensor_from_array("x", np.linspace(0, 1, 32, dtype=np.float32)[None]), BY_NAME["Q4_0"])
        >>> len(np.unique(row.rows(0, 1).view(np.float32))) <= 16
        True
    """
    kernel = kernel_for(kind)
    importance = np.ones(tensor.width, np.float32) if kernel.requires_importance else None

    def read(a: int, b: int) -> Bytes:
        rows = np.ascontiguousarray(tensor.rows(a, b))
        out = np.empty((b - a, kind.row_bytes(tensor.width)), np.uint8)
        if (bad := encode_checked(rows, tensor.qtype, kind, importance, out)) is not None:
            raise bad_weight(tensor, a + bad.row, bad)
        floats = np.empty((b - a, tensor.width), np.float32)
        kernel.decode(out, floats)
        return floats.view(np.uint8)

    return replace(tensor, qtype=F32, read=read)
