"""The loss of each type for each tensor: its error on a sample of rows, weighted by importance and by sensitivity."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Model, Tensor
from ...formats.progress import Progress, StepDone
from ...formats.qtypes import BF16, BY_NAME, F16, F32, QType
from ..decode import as_float
from ..kernels import kernel_for
from ..recipe import Category, category_of
from ..recipes import NEEDS_IMPORTANCE
from ..refine import REFINED

if TYPE_CHECKING:
    from ..refine.refiner import Refiner

SAMPLE = 1 << 17  # weights tried of each tensor; more changed no choice for the models this was tested with
_LEAST_ROWS = 16
# A text says little about embeddings: each row matters wherever its token occurs, and other texts (such as tables full
# of spaces) have other frequent tokens. Without this factor, choices near 5 bits did worse than Q4_K_M on such texts
# with a Llama of 8 million weights.
_EMBEDDING_CAUTION = 4.0
_UNSEEN = 1e-3  # of the mean over all experts: the sensitivity of an expert that no token was sent to, which is not 0

# The types to choose from, from small to large; NARROW for rows that are not a multiple of 256.
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
    """How much an error in one tensor changes the model's predictions.

    Args:
        scales: float64 [n_matrices], the KL divergence in nats per token for each unit of sum_rj columns_j e_rj^2, with
            columns that have a mean of 1.
        columns: float64 [width], the columns' importance, used if there is no importance matrix; None if all are alike.
    """

    scales: NDArray[np.float64]
    columns: NDArray[np.float64] | None = None


# For models that are not run: nats per token that a tensor costs if its error is as large as the tensor itself, if the
# loss is linear in the squared error. These are geometric means over the layers of SmolLM2-135M and a Llama of
# 8 million weights, measured with ``imatrix/sensitivity.py``.
_TYPICAL = {
    Category.ATTN_Q: 0.011,
    Category.ATTN_K: 0.012,
    Category.ATTN_V: 0.07,
    Category.ATTN_QKV: 0.05,
    Category.ATTN_OUTPUT: 0.028,
    Category.FFN_GATE: 0.053,
    Category.FFN_UP: 0.052,
    Category.FFN_DOWN: 0.088,
    Category.TOKEN_EMBD: 0.25,
    Category.OUTPUT: 2.8,
}
_TYPICAL_OTHER = 0.05


def typical_sensitivity(tensor: Tensor, power: float, tied: bool = False) -> Sensitivity:
    """The sensitivity to assume for a tensor, the same for each of its matrices, if the model was not run.

    Args:
        power: the mean square of its weights.
        tied: whether the embeddings are the model's output matrix, too.
    """
    category = category_of(tensor.name)
    cost = _TYPICAL.get(Category.OUTPUT if tied and category is Category.TOKEN_EMBD else category, _TYPICAL_OTHER)
    n_matrices = tensor.n_weights // _matrix_weights(tensor)
    return Sensitivity(np.full(n_matrices, cost / max(power * tensor.n_weights, 1e-30)))


def candidates(tensor: Tensor, has_importance: bool) -> tuple[QType, ...]:
    """The types to choose from for a tensor: those that fit its rows and need no importance that it lacks, from small
    to large, then its own float type (F16 if that is F32)."""
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
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Measure the loss of types for tensors, in nats per token.

    A sample of rows, spread evenly, is encoded and decoded. The same rows are taken in every run, and the result does
    not depend on the number of threads.

    Args:
        model: the source; quantized tensors are decoded.
        wanted: the types to try, by tensor name.
        importance: the importance vectors that the encoders will be given, by tensor name.
        sensitivity: the sensitivities by tensor name; ``typical_sensitivity`` is assumed for tensors it lacks.
        refiner: refines the tensors that have second moments, or None.
        threads: how many tensors to work on at a time.
        sample: about how many weights of each tensor to try.
        progress: called with a ``StepDone`` for each tensor.

    Returns:
        by tensor name, the losses in the order of ``wanted``.
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
                progress(StepDone("types tried on tensors", done, len(tensors)))
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
    elif category_of(tensor.name) is Category.TOKEN_EMBD and not tied:
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
    """The importance of columns, scaled to a mean of 1."""
    columns = measured if own is None else own.astype(np.float64)
    if columns is None or columns.size != width or columns.mean() <= 0:
        return np.ones(width)
    mean = float(columns.mean())
    return np.asarray(columns / mean, np.float64)


def _sampled(tensor: Tensor, n_rows: int, n_matrices: int, sample: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (index of a matrix, float32 [rows, width]): a sample of the stacked matrices and of the rows in each."""
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
    """The squared error of encoding and decoding rows, float64 [rows, width]."""
    kernel = kernel_for(type)
    encoded = np.empty((len(rows), type.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(rows.view(np.uint8), F32, importance if kernel.uses_importance else None, encoded)
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    squares: NDArray[np.float64] = np.square(decoded.astype(np.float64) - rows)
    return squares
