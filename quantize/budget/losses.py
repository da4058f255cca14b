"""What each type costs each tensor: its error on a sample of rows, weighted by importance and by sensitivity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Model, Tensor
from ...formats.qtypes import BF16, BY_NAME, F16, F32, QType
from ..decode import as_float
from ..kernels import kernel_for
from ..recipe import Part, part_of
from ..recipes import NEEDS_IMPORTANCE
from ..refine import REFINED

if TYPE_CHECKING:
    from ..refine.refiner import Refiner

SAMPLE = 1 << 17  # weights of each tensor that are tried; more changes no choice on the models this was tested with
_LEAST_ROWS = 16
# A text says little of embeddings: each row acts wherever its token is, and in another text (tables, say, full of
# spaces) other tokens are everywhere. Tried on the 8 M Llama: without this, choices near 5 bits lost there to Q4_K_M.
_EMBEDDING_CAUTION = 4.0
_UNSEEN = 1e-3  # of the others' mean: the sensitivity of an expert to which no token was sent, which is not 0

# What a budget may be spent on, from small to large. Where rows are no multiple of 256, the types with blocks of 32.
WIDE = tuple(
    BY_NAME[name]
    for name in (
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K",
        "Q6_K", "Q8_0",
    )
)  # fmt: skip
NARROW = tuple(BY_NAME[name] for name in ("IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))


@dataclass(frozen=True)
class Sensitivity:
    """How many nats a token the model's predictions move for an error in one tensor.

    Args:
        scales: float64 [n_matrices], for each unit of sum_rj columns_j e_rj^2 with columns that have a mean of 1.
        columns: float64 [width], the columns' importance where no importance matrix has it, or None for all alike.
    """

    scales: NDArray[np.float64]
    columns: NDArray[np.float64] | None = None


# Without a run: nats a token that a tensor would cost if its error were as large as itself, if that stayed linear; the
# geometric means over the layers of SmolLM2-135M and a Llama of 8 million weights by ``imatrix/sensitivity.py``.
_TYPICAL = {
    Part.ATTN_Q: 0.011, Part.ATTN_K: 0.012, Part.ATTN_V: 0.07, Part.ATTN_QKV: 0.05, Part.ATTN_OUTPUT: 0.028,
    Part.FFN_GATE: 0.053, Part.FFN_UP: 0.052, Part.FFN_DOWN: 0.088, Part.TOKEN_EMBD: 0.25, Part.OUTPUT: 2.8,
}  # fmt: skip
_TYPICAL_OTHER = 0.05


def typical_sensitivity(tensor: Tensor, power: float, tied: bool = False) -> Sensitivity:
    """What to assume of a tensor (and alike of each of its stacked matrices) where no model could be run.

    Args:
        power: the mean square of its weights.
        tied: the model has no output matrix but its embeddings.
    """
    part = part_of(tensor.name)
    cost = _TYPICAL.get(Part.OUTPUT if tied and part is Part.TOKEN_EMBD else part, _TYPICAL_OTHER)
    n_matrices = tensor.n_weights // _matrix_weights(tensor)
    return Sensitivity(np.full(n_matrices, cost / max(power * tensor.n_weights, 1e-30)))


def candidates(tensor: Tensor, has_importance: bool) -> tuple[QType, ...]:
    """The types a tensor may take: those that fit its rows and do not need importance it lacks; at last its own float
    type."""
    types = WIDE if tensor.width % 256 == 0 else NARROW
    fitting = [t for t in types if tensor.width % t.block_size == 0]
    whole = tensor.qtype if tensor.qtype in (F16, BF16) else F16
    return (*(t for t in fitting if has_importance or t.name not in NEEDS_IMPORTANCE), whole)


def losses(
    model: Model,
    wanted: Mapping[str, Sequence[QType]],
    importance: Mapping[str, NDArray[np.float32]],
    sensitivity: Mapping[str, Sensitivity],
    *,
    refiner: Refiner | None = None,
    threads: int = 1,
    sample: int = SAMPLE,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, list[float]]:
    """The loss, in nats a token, of each type that ``wanted`` names for a tensor, in its order.

    The rows tried are spread evenly, the same in every run; the figures do not depend on the threads.

    Args:
        model: the source; quantized tensors are decoded.
        importance: as the encoders will be given it.
        refiner: for what will be refined.
        sensitivity: by tensor; ``typical_sensitivity`` for those it lacks.
        progress: told (tensors done, of all).
    """
    tensors = [tensor for tensor in as_float(model).tensors if tensor.name in wanted]
    tied = all(tensor.name != "output.weight" for tensor in model.tensors)
    lock, done = threading.Lock(), 0

    def one(tensor: Tensor) -> list[float]:
        nonlocal done
        vector, known = importance.get(tensor.name), sensitivity.get(tensor.name)
        own = refiner if refiner is not None and refiner.moments.holder(tensor.name) is not None else None
        found = _losses(tensor, wanted[tensor.name], vector, known, sample, tied, own)
        if progress is not None:
            with lock:
                done += 1
                progress(done, len(tensors))
        return found

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip((tensor.name for tensor in tensors), pool.map(one, tensors), strict=True))


def _losses(
    tensor: Tensor,
    types: Sequence[QType],
    vector: NDArray[np.float32] | None,
    sensitivity: Sensitivity | None,
    sample: int,
    tied: bool,
    refiner: Refiner | None,
) -> list[float]:
    n_rows = _matrix_weights(tensor) // tensor.width
    n_matrices = tensor.n_rows // n_rows
    weights = list(_sampled(tensor, n_rows, n_matrices, sample))
    if sensitivity is None or sensitivity.scales.size not in (1, n_matrices):
        power = float(np.mean([np.square(rows, dtype=np.float64).mean() for _, rows in weights]))
        sensitivity = typical_sensitivity(tensor, power, tied)
    elif part_of(tensor.name) is Part.TOKEN_EMBD and not tied:
        sensitivity = replace(sensitivity, scales=sensitivity.scales * _EMBEDDING_CAUTION)
    scales = np.broadcast_to(sensitivity.scales, n_matrices)
    unseen = float(scales.mean()) * _UNSEEN
    totals = np.zeros(len(types))
    for matrix, rows in weights:
        own = None if vector is None else np.ascontiguousarray(vector.reshape(n_matrices, -1)[matrix])
        columns = _columns(own, sensitivity.columns, tensor.width)
        for i, type in enumerate(types):
            if refiner is not None and type.name in REFINED:
                error = refiner.loss(tensor.name, matrix, rows, type)
            else:
                error = float((_squared_error(rows, type, own) @ columns).mean())
            totals[i] += max(float(scales[matrix]), unseen) * error
    return [float(total) for total in totals * (n_rows * n_matrices / len(weights))]


def _matrix_weights(tensor: Tensor) -> int:
    return tensor.shape[-2] * tensor.shape[-1] if len(tensor.shape) > 1 else tensor.width


def _columns(own: NDArray[np.float32] | None, measured: NDArray[np.float64] | None, width: int) -> NDArray[np.float64]:
    """The importance of columns with a mean of 1."""
    columns = measured if own is None else own.astype(np.float64)
    if columns is None or columns.size != width or columns.mean() <= 0:
        return np.ones(width)
    mean = float(columns.mean())
    return np.asarray(columns / mean, np.float64)


def _sampled(tensor: Tensor, n_rows: int, n_matrices: int, sample: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(matrix, float32 [rows, width]) of some matrices of the stack and of some rows in each, spread evenly."""
    wanted = max(_LEAST_ROWS, sample // tensor.width)
    n = min(n_matrices, max(1, wanted // _LEAST_ROWS))
    each = min(n_rows, max(_LEAST_ROWS, wanted // n))
    for i in range(n):
        matrix = (2 * i + 1) * n_matrices // (2 * n)
        numbers = [matrix * n_rows + (2 * k + 1) * n_rows // (2 * each) for k in range(each)]
        raw = np.concatenate([tensor.rows(a, a + 1) for a in numbers])
        rows = np.empty((each, tensor.width), np.float32)
        kernel_for(tensor.qtype).decode(np.ascontiguousarray(raw), rows)
        yield matrix, rows


def _squared_error(
    rows: NDArray[np.float32], type: QType, importance: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """float64 [rows, width]: what encoding and decoding does to them."""
    kernel = kernel_for(type)
    encoded = np.empty((len(rows), type.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(rows.view(np.uint8), F32, importance if kernel.uses_importance else None, encoded)
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    squares: NDArray[np.float64] = np.square(decoded.astype(np.float64) - rows)
    return squares
