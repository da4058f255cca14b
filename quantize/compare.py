"""How far the weights of one model are from another's, tensor by tensor, in row chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..formats.floats import bf16_to_f32
from ..formats.ir import Model, Tensor
from .decode import as_float

CHUNK_WEIGHTS = 1 << 20  # a chunk of both sides in float64 stays near 16 MB


@dataclass
class TensorReport:
    """The figures of one tensor; the last three are None when there was nothing to compare with.

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
    """Decode every tensor of ``model``, and measure it against ``base``'s tensor of that name and shape, if any."""
    others = {tensor.name: tensor for tensor in as_float(base)} if base else {}
    for stored, tensor in zip(model, as_float(model), strict=True):
        other = others.get(tensor.name)
        if other is not None and other.shape != tensor.shape:
            other = None
        yield _measure(stored.qtype.name, tensor, other)


def _measure(type_name: str, tensor: Tensor, other: Tensor | None) -> TensorReport:
    step = max(1, CHUNK_WEIGHTS // max(1, tensor.width))
    non_finite = 0
    error2 = base2 = ours2 = dot = largest = 0.0
    for a in range(0, tensor.n_rows, step):
        b = min(a + step, tensor.n_rows)
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
    if tensor.qtype.name == "BF16":
        return bf16_to_f32(raw.view("<u2")).astype(np.float64)
    return raw.view(tensor.qtype.fields[0][1]).astype(np.float64)
