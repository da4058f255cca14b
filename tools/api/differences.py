"""Compare two models: their metadata, tensors and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.progress import Progress
from .models import as_model

if TYPE_CHECKING:
    from ...formats.differences import KeyChange, TensorChange
    from ...formats.ir import Model, Tensor
    from ...quantize.compare import TensorReport


@dataclass(frozen=True)
class ModelDifferences:
    """What ``diff`` found.

    Args:
        a, b: the two models.
        keys: the metadata keys that differ.
        tensors: the tensors that differ.
        errors: for tensors of one shape whose type or weights differ, the error of ``b``'s against ``a``'s, by name;
            empty unless it was asked for.

    Example:
        >>> from quantmill import diff, tiny_llama
        >>> differences = diff(tiny_llama(), tiny_llama())
        >>> differences.equal, differences.keys, differences.tensors
        (True, (), ())
    """

    a: Model
    b: Model
    keys: tuple[KeyChange, ...]
    tensors: tuple[TensorChange, ...]
    errors: dict[str, TensorReport] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.keys and not self.tensors


def diff(
    a: str | Path | Model,
    b: str | Path | Model,
    *,
    metadata: bool = True,
    weights: bool = True,
    values: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModelDifferences:
    """Find what differs between two models, whatever files they are stored in.

    Args:
        a, b: GGUF files, shards of them, GGML files, Hugging Face folders, or models that were read.
        metadata: compare the metadata's keys and values.
        weights: compare the bytes of tensors of one shape and type.
        values: also decode the tensors that differ, and measure by how much.
        threads: None for one for each CPU.
        progress: receives the typed events of ``formats/progress.py``.

    Raises:
        FormatError: a file cannot be read.

    Example:
        >>> import numpy as np
        >>> from quantmill import diff, model_from_arrays
        >>> a = model_from_arrays("llama", {"x": np.array([3.0, 4.0], np.float32)})
        >>> b = model_from_arrays("llama", {"x": np.array([3.0, 4.5], np.float32)}, {"general.name": "b"})
        >>> found = diff(a, b, values=True)
        >>> [change.key for change in found.keys], [(t.name, t.change) for t in found.tensors]
        (['general.name'], [('x', 'weights')])
        >>> found.errors["x"].max_error
        0.5
    """
    from ...formats.differences import key_changes, tensor_changes

    one, other = as_model(a, progress=progress), as_model(b, progress=progress)
    keys = key_changes(one.metadata, other.metadata) if metadata else []
    tensors = tuple(tensor_changes(one, other, weights=weights, threads=_threads(threads)))
    errors = {}
    if values:
        decoded = {change.name for change in tensors if change.change in ("type", "weights")}
        errors = measure_errors(other, one, only=decoded, threads=threads)
    return ModelDifferences(one, other, tuple(keys), tensors, errors)


def measure_errors(
    model: Model,
    base: Model,
    *,
    only: Iterable[str] | None = None,
    threads: int | None = None,
    done: Callable[[int], object] | None = None,
) -> dict[str, TensorReport]:
    """Measure the error of every tensor that both models have in one shape; leading axes of length 1 do not count.

    Args:
        only: names of the tensors to measure; None for all.
        threads: None for one for each CPU.
        done: called with the bytes of each tensor that was measured, from any thread.

    Returns:
        The figures by tensor, in the order of ``model``.
    """
    from ...formats.gguf.factors import with_factors
    from ...formats.gguf.writer import ggml_shape
    from ...quantize.compare import compare

    def flat(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=ggml_shape(tensor.shape))

    def measure(pair: tuple[Tensor, Tensor]) -> TensorReport:
        report = next(compare(replace(model, tensors=(pair[0],)), replace(base, tensors=(pair[1],))))
        if done is not None:
            done(pair[0].nbytes)
        return report

    wanted = None if only is None else set(only)
    others = {tensor.name: flat(tensor) for tensor in with_factors(base)}
    ours = [flat(tensor) for tensor in with_factors(model) if wanted is None or tensor.name in wanted]
    pairs = [(t, others[t.name]) for t in ours if t.name in others and t.shape == others[t.name].shape]
    with ThreadPoolExecutor(_threads(threads)) as pool:
        return {report.name: report for report in pool.map(measure, pairs)}


def _threads(threads: int | None) -> int:
    from ...quantize.threads import cpu_count

    return threads or cpu_count()
