"""Measure how far the weights of one model are from another's, tensor by tensor, in chunks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..formats.floats import to_f32
from ..formats.gguf.factors import with_factors
from ..formats.ir import Model, Tensor
from .decode import as_float

_CHUNK_BYTES = 2 << 20  # decoded; in float64 a chunk stays below 8 MB


@dataclass
class TensorReport:
    """How far a tensor's weights are from those of another model; the last three are None without such a tensor.

    Args:
        name: the tensor's name.
        type: the type it is stored in.
        non_finite: how many of its weights decode to NaN or Inf.
        rmse: root mean square error, relative to the base's root mean square (absolute if that is 0).
        max_error: the largest absolute error.
        cosine: cosine similarity; 1 when both are all zero.
    """

    name: str
    type: str
    non_finite: int
    rmse: float | None = None
    max_error: float | None = None
    cosine: float | None = None


def compare(model: Model, base: Model | None = None) -> Iterator[TensorReport]:
    """Decode every tensor of a model and measure how far its weights are from those of another.

    Args:
        model: the model to measure, quantized or not.
        base: what to compare it with, such as its original; None only to count weights that are NaN or Inf. Tensors
            are matched by name; those of another shape are not compared.

    Yields:
        A report for each tensor of ``model``, in order; the tensor is read when its report is asked for. Factors beside
        weights are in these.

    Raises:
        QuantmillError: a tensor is in a type that cannot be decoded.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from quantmill.formats.ir import Model, Role, Tensor
        >>> from quantmill.formats.qtypes import F32
        >>> from quantmill.quantize.compare import compare
        >>> def one(value):
        ...     rows = np.full((2, 8), value, np.float32).view(np.uint8)
        ...     tensor = Tensor("output.weight", Role.OUTPUT, None, (2, 8), F32, lambda a, b: rows[a:b])
        ...     return Model("llama", {}, (tensor,), Path("tiny"))
        >>> [report] = compare(one(1.5), one(1.0))
        >>> report.name, report.type, report.rmse, report.max_error
        ('output.weight', 'F32', 0.5, 0.5)
    """
    others = {tensor.name: tensor for tensor in as_float(base)} if base else {}
    for stored, tensor in zip(with_factors(model), as_float(model), strict=True):
        other = others.get(tensor.name)
        if other is not None and other.shape != tensor.shape:
            other = None
        yield _measure(stored.qtype.name, tensor, other)


def _measure(type_name: str, tensor: Tensor, other: Tensor | None) -> TensorReport:
    non_finite = 0
    error2 = base2 = ours2 = dot = largest = 0.0
    for a, b in tensor.row_chunks(_CHUNK_BYTES):
        x = _float64(tensor, a, b)
        non_finite += x.size - int(np.count_nonzero(np.isfinite(x)))
        if other is None:
            continue
        y = _float64(other, a, b)
        e = x - y
        error2 += float(np.vdot(e, e))
        base2 += float(np.vdot(y, y))
        ours2 += float(np.vdot(x, x))
        dot += float(np.vdot(x, y))
        largest = max(largest, float(np.abs(e).max(initial=0.0)))
    report = TensorReport(tensor.name, type_name, non_finite)
    if other is not None:
        report.rmse = float(np.sqrt(error2 / base2)) if base2 else float(np.sqrt(error2 / max(1, tensor.n_weights)))
        report.max_error = largest
        norm = float(np.sqrt(ours2) * np.sqrt(base2))
        report.cosine = dot / norm if norm else float(ours2 == base2)
    return report


def _float64(tensor: Tensor, a: int, b: int) -> np.ndarray:
    raw = tensor.rows(a, b)
    if tensor.qtype.is_float:
        return to_f32(raw, tensor.qtype).astype(np.float64)
    return raw.view(tensor.qtype.fields[0][1]).astype(np.float64)  # integers and F64
