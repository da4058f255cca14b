"""Check that a model's file is whole, and how far its weights are from another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import FormatError
from ...formats.progress import Progress, work
from .checks import refuse
from .models import as_model, source_kind

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.compare import TensorReport


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Args:
        path: the file or folder that was checked.
        against: what its weights were compared with, or None.
        tensors: the figures of each tensor, in the file's order.
        failures: a sentence for each thing that is wrong: weights that are not finite, tensors that only one side has,
            bounds that are exceeded.

    Example:
        >>> from quantmill import tiny_llama, verify
        >>> verification = verify(tiny_llama(), tiny_llama(), max_error=0.0)
        >>> verification.ok, verification.failures
        (True, ())
    """

    path: Path
    against: Path | None
    tensors: tuple[TensorReport, ...]
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


def verify(
    model: str | Path | Model,
    against: str | Path | Model | None = None,
    *,
    max_rmse: float | None = None,
    max_error: float | None = None,
    min_cosine: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Decode every weight of a model, and compare it with another model's if one is given.

    Args:
        model: a GGUF file, a shard of one, a GGML file, a Hugging Face folder, or a model that was read.
        against: the model to compare each tensor with, likewise.
        max_rmse: fail when a tensor's root mean square error, relative to the other's root mean square, exceeds this.
        max_error: fail when a tensor's largest absolute error exceeds this.
        min_cosine: fail when a tensor's cosine similarity is below this.
        progress: receives the typed events of ``formats/progress.py``.

    Raises:
        FormatError: a file cannot be read, or its structure is damaged. PlanError: a bound is given, and nothing to
            compare with.

    Example:
        >>> import numpy as np
        >>> from quantmill import model_from_arrays, verify
        >>> exact = model_from_arrays("llama", {"output_norm.weight": np.array([3.0, 4.0], np.float32)})
        >>> rough = model_from_arrays("llama", {"output_norm.weight": np.array([3.0, 4.5], np.float32)})
        >>> found = verify(rough, exact, max_error=0.25)
        >>> found.ok, found.tensors[0].rmse
        (False, 0.1)
        >>> found.failures
        ('output_norm.weight: largest error 0.5 exceeds 0.25',)
    """
    from ...formats.gguf.factors import with_factors
    from ...quantize.compare import compare

    if against is None:
        bounds = {"--max-rmse": max_rmse, "--max-error": max_error, "--min-cosine": min_cosine}
        given = {name: bound is not None for name, bound in bounds.items()}
        refuse(given, "there is nothing to compare with", "give --against MODEL, or leave it out")
    ours = with_factors(as_model(model, progress=progress))
    base = None if against is None else with_factors(as_model(against, progress=progress))
    reports = []
    with work(progress, ours.path.name, sum(tensor.nbytes for tensor in ours)) as done:
        for tensor, report in zip(ours, compare(ours, base), strict=True):
            reports.append(report)
            if done is not None:
                done(tensor.nbytes)
    failures = [line for report in reports for line in _failures(report, max_rmse, max_error, min_cosine)]
    failures += _unmatched(ours, base)
    return Verification(ours.path, None if base is None else base.path, tuple(reports), tuple(failures))


def verify_strict(path: str | Path) -> tuple[FormatError, ...]:
    """Find everything in a GGUF file, or in the shards of one, that llama.cpp would not load, or that cannot be meant.

    Args:
        path: the file, or any of its shards.

    Returns:
        An error for each thing that is wrong, with its place and its remedy.

    Raises:
        FormatError: the file cannot be read at all, or is not a GGUF file.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, verify_strict, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {"x": np.array([np.inf], np.float32)}))
        ...     [error.where for error in verify_strict(path)][-1:]
        ["tensor 'x'"]
    """
    from ...formats.gguf.reader import read_gguf
    from ...formats.gguf.strict import check_gguf
    from ...formats.hf.mmproj_save import missing_tensors

    path = Path(path)
    if source_kind(path) != "gguf":
        raise FormatError("--strict is for GGUF files", path=path, hint="leave it out")
    found = list(check_gguf(path))
    model = read_gguf(path)
    if model.arch == "clip":
        for name in missing_tensors(model):
            hint = "get the file, or the checkpoint, again and convert it"
            problem = "is missing; llama.cpp refuses the file, or computes without it"
            found.append(FormatError(problem, path=path, where=f"tensor {name!r}", hint=hint))
    return tuple(found)


def _failures(report: TensorReport, rmse: float | None, max_error: float | None, cosine: float | None) -> list[str]:
    found = []
    if report.non_finite:
        found.append(f"{report.name}: {report.non_finite} weights are NaN or Inf")
    if rmse is not None and report.rmse is not None and report.rmse > rmse:
        found.append(f"{report.name}: relative RMSE {report.rmse:.3g} exceeds {rmse:g}")
    if max_error is not None and report.max_error is not None and report.max_error > max_error:
        found.append(f"{report.name}: largest error {report.max_error:.3g} exceeds {max_error:g}")
    if cosine is not None and report.cosine is not None and report.cosine < cosine:
        found.append(f"{report.name}: cosine {report.cosine:.6f} is below {cosine:g}")
    return found


def _unmatched(model: Model, base: Model | None) -> list[str]:
    """Tensors that only one of the models has, or that differ in shape."""
    if base is None:
        return []
    ours, theirs = ({tensor.name: tensor.shape for tensor in side} for side in (model, base))
    found = [f"{name}: not in {base.path}" for name in ours if name not in theirs]
    found += [f"{name}: only in {base.path}" for name in theirs if name not in ours]
    found += [
        f"{name}: shape {list(shape)}, but {list(theirs[name])} in {base.path}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    return found
