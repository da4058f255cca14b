"""``compare_models``: how far the predictions of several models are from one base's, and from each other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.progress import Progress, WorkEnded, emit
from ...formats.storage.endings import ending
from .checks import refuse
from .judging import (
    Judged,
    check_same_tokens,
    judge_against,
    judge_against_saved,
    note_other_shape,
    open_judged,
    open_saved,
)
from .models import source_kind
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions, on_device, open_text

if TYPE_CHECKING:
    from ...imatrix.evaluate import BaseComparison, Floats, Record


@dataclass(frozen=True)
class ModelSize:
    """What a model takes on the disk.

    Args:
        nbytes: of the files with its weights.
        bpw: bits per weight, over all tensors.

    Example:
        >>> from quantmill import ModelSize
        >>> ModelSize(nbytes=4_920_000_000, bpw=4.89).bpw
        4.89
    """

    nbytes: int
    bpw: float


@dataclass(frozen=True)
class ComparedModel:
    """A model, its size, and how far its predictions are from the base's.

    Args:
        path: its file or folder.
        size: on the disk.
        figures: as ``evaluate`` gives them.

    Example:
        >>> from quantmill import ComparedModel
        >>> list(ComparedModel.__dataclass_fields__)
        ['path', 'size', 'figures']
    """

    path: Path
    size: ModelSize
    figures: BaseComparison


@dataclass(frozen=True)
class PairedDifference:
    """How two models differ: the second's figure less the first's.

    Each error is the standard error of the mean of the differences at each position. The text is the same, so what
    makes it hard for both cancels out, and errors are far smaller than those of each model's figures.

    Args:
        first, second: the models' paths.
        log_ppl: of ln(perplexity).
        kld: of the mean KL divergence from the base, nats.
        top1: of the share of positions with the base's most likely token.

    Example:
        >>> from pathlib import Path
        >>> from quantmill import PairedDifference
        >>> a, b = Path("a.Q4_K_M.gguf"), Path("b.Q4_K_M.gguf")
        >>> pair = PairedDifference(a, b, 0.002, 0.001, 0.0041, 0.0003, -0.004, 0.002)
        >>> pair.kld > 3 * pair.kld_error  # b diverges more than a
        True
    """

    first: Path
    second: Path
    log_ppl: float
    log_ppl_error: float
    kld: float
    kld_error: float
    top1: float
    top1_error: float


@dataclass(frozen=True)
class ModelComparison:
    """Several models beside one base, on one text.

    Args:
        base: the base's path.
        base_size: None where the base is a file of saved predictions.
        text: the text's name.
        n_chunks: chunks of the text.
        n_ctx: tokens in each.
        models: in the order they were given.
        differences: of every two models.

    Example:
        >>> from quantmill import ModelComparison
        >>> [name for name in ModelComparison.__dataclass_fields__ if "base" in name]
        ['base', 'base_size']
    """

    base: Path
    base_size: ModelSize | None
    text: str
    n_chunks: int
    n_ctx: int
    models: tuple[ComparedModel, ...]
    differences: tuple[PairedDifference, ...]


def compare_models(
    base: StrPath,
    models: Sequence[StrPath],
    text: StrPath | None = None,
    *,
    run: RunOptions = DEFAULT_RUN,
    measured: Callable[[ComparedModel], object] | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Measure how far the predictions of several models are from a base model's, which runs once.

    Each model's figures are those of ``evaluate``. Every model runs layer by layer; in memory are one layer's weights,
    activations up to 1 GiB (the others are in a temporary folder), and at last the output matrices, of which those
    above 256 MiB are read in slices. As many models go together as have activations that fit in that memory.

    Args:
        base: the model to compare with, or an ``.npz`` file that ``evaluate`` saved of one.
        models: GGUF or GGML files of any type, Hugging Face folders, or names on the hub.
        text: a UTF-8 file; None for the text that ships with the package.
        run: which chunks of the text, and how they are computed.
        measured: called with each model as soon as its figures are known, which can be long before the last one's.
        progress: told of each batch.

    Raises:
        QuantmillError: a file cannot be read, splits the text into other tokens or has another vocabulary than the
            base, the text is too short, or a model gives NaN or Inf.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import RunOptions, compare_models, convert, tiny_llama, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     base, text = Path(folder, "model.gguf"), Path(folder, "text.txt")
        ...     _ = write_gguf(base, tiny_llama())
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     models = [Path(folder, f"model.{level}.gguf") for level in ("Q8_0", "Q4_0")]
        ...     for path, level in zip(models, ("Q8_0", "Q4_0")):
        ...         _ = convert(base, path, level)
        ...     found = compare_models(base, models, text, run=RunOptions(n_ctx=16))
        >>> [model.path.name for model in found.models]
        ['model.Q8_0.gguf', 'model.Q4_0.gguf']
        >>> found.differences[0].kld > 0
        True
    """
    if not models:
        raise PlanError("no model to compare with the base", hint="name at least one")
    why = "a part of the text would be judged, which compares with nothing"
    refuse({"run.skip_bad_chunks": run.skip_bad_chunks}, why)
    text_path = None if text is None else Path(text)
    with on_device(run, progress) as on, TemporaryDirectory(prefix="quantmill-") as temporary:
        folder = Path(temporary)
        is_saved = ending(base) == ".npz"
        own = None if is_saved else open_judged(base, progress)
        judged = [open_judged(model, progress) for model in models]
        first = own or judged[0]
        corpus = open_text(first.weights, text_path, on)
        for side in judged:
            if side is not first:
                check_same_tokens(first, side, corpus, text_path, on)
                note_other_shape(first, side, progress)
        sizes = [_size(side) for side in judged]
        if own is None:
            saved = open_saved(Path(base), judged, corpus)
            walk: Iterator[Record] = (
                judge_against_saved(side, saved, corpus, folder / str(number), on, progress)
                for number, side in enumerate(judged)
            )
        else:
            walk = judge_against(judged, own, corpus, folder, on, progress)
        records, compared = [], []
        for side, size, record in zip(judged, sizes, walk, strict=True):
            records.append(record)
            compared.append(ComparedModel(side.path, size, record.compared()))
            if measured is not None:
                measured(compared[-1])
    emit(progress, WorkEnded())
    return ModelComparison(
        base=Path(base) if own is None else own.path,
        base_size=None if own is None else _size(own),
        text=corpus.name,
        n_chunks=corpus.n_chunks,
        n_ctx=corpus.n_ctx,
        models=tuple(compared),
        differences=tuple(
            _paired(a.path, b.path, one, two)
            for (a, one), (b, two) in combinations(zip(judged, records, strict=True), 2)
        ),
    )


def _paired(first: Path, second: Path, one: Record, two: Record) -> PairedDifference:
    import numpy as np

    from ...imatrix.evaluate import mean_and_error

    def of(ours: list[Floats], theirs: list[Floats]) -> tuple[float, float]:
        return mean_and_error(np.concatenate(theirs) - np.concatenate(ours))

    log_ppl, kld, top1 = of(one.nll, two.nll), of(one.kld, two.kld), of(one.same_top, two.same_top)
    return PairedDifference(first, second, *log_ppl, *kld, *top1)


def _size(side: Judged) -> ModelSize:
    """Of a GGUF file all shards, without its header for the bits; of others the files as they are."""
    from .description import describe

    kind = source_kind(side.path)
    if kind == "gguf":
        found = describe(side.path)
        return ModelSize(found.file_size, found.bpw)
    if kind == "hf":
        from ...formats.hf.files.weight_files import find_weight_files

        names = find_weight_files(side.path, follow_links=True).names
        nbytes = sum((side.path / name).stat().st_size for name in names)
    else:
        nbytes = side.path.stat().st_size
    n_weights = sum(tensor.n_weights for tensor in side.weights.model)
    return ModelSize(nbytes, nbytes * 8 / max(1, n_weights))
