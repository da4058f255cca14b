"""``collect_imatrix`` and ``merge_imatrices``: importance matrices, as files that ``quantize --imatrix`` reads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from ...formats.errors import OutputError, PlanError
from ...formats.progress import Progress, note
from ...formats.storage.endings import ending
from ...formats.storage.output import check_writable
from .checks import refuse
from .hub import local_path
from .options import StrPath
from .planning import DEFAULT_REFINE_WIDTH
from .ray_pool import ClusterOptions
from .running import DEFAULT_N_CTX, DEFAULT_RUN, RunOptions, on_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...formats.imatrix_file import Imatrix
    from ...formats.moments_file import Moments
    from ...imatrix.evaluate import Evaluation
    from ...imatrix.stats import TensorStatistics
    from ...imatrix.sums import Sums

Format = Literal["gguf", "dat"]
DEFAULT_MOMENTS_SIZE = 4 << 30
_PRIOR_TOKENS = 256  # experts that saw fewer inputs borrow the rest from their layer
_NAMED = 12  # experts listed by number


@dataclass(frozen=True)
class CollectedImatrix:
    """An importance matrix, and what is known of the run that made it.

    Args:
        imatrix: the matrix; ``imatrix.vectors()`` is what ``make_plan`` and ``encode`` take.
        path: the file that it was written to, or None.
        perplexity: of the model on the text; None where it was not asked for.
        thin_experts: experts that saw fewer than 256 tokens: (expert, tokens) pairs by tensor name.
        dropped_chunks: chunks left out because of NaN or Inf: where they occurred, by the chunk's index.
        seconds: the time taken.

    Example:
        >>> from quantmill import CollectedImatrix, Imatrix
        >>> CollectedImatrix(Imatrix({})).path is None
        True
    """

    imatrix: Imatrix
    path: Path | None = None
    perplexity: Evaluation | None = None
    thin_experts: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    dropped_chunks: Mapping[int, str] = field(default_factory=dict)
    seconds: float = 0.0


def collect_imatrix(
    model: StrPath,
    output: StrPath | None = None,
    *,
    text: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    merge: Sequence[StrPath] = (),
    output_format: Format | None = None,
    process_output: bool = False,
    perplexity: bool = True,
    expert_prior: bool = True,
    second_moments: bool = False,
    moments_width: int | None = None,
    moments_size: int = DEFAULT_MOMENTS_SIZE,
    level: str | None = None,
    cluster: ClusterOptions | None = None,
    save_every: int = 4,
    restart: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> CollectedImatrix:
    """Run a text through a model and record the squared inputs of each weight: llama.cpp's importance matrix.

    One block's weights are in memory at a time. With an output, a run that is interrupted leaves its state in a folder
    beside it, and the same call resumes it.

    Args:
        model: a GGUF or GGML file of any type, or a Hugging Face folder.
        output: the file to write, ``.dat`` for llama.cpp's older format, otherwise GGUF; None writes no file.
        text: a UTF-8 file; None for the text that ships with the package.
        run: which chunks of the text, and how they are computed.
        merge: importance matrices of the same model to add to this run's.
        output_format: ``gguf`` or ``dat``, whatever the output's suffix.
        process_output: record the output matrix too (the embedding, where they are tied).
        perplexity: compute the text's perplexity.
        expert_prior: let experts that saw fewer than 256 tokens borrow the rest from their layer's mean. Matrices that
            are to be merged later should be collected without.
        second_moments: record how inputs vary together, for refinement (``quantize --refine``); needs an output.
        moments_width: columns of a block of second moments, a multiple of 256: as many as refining will take. None for
            its default of 256, or for that of the matrices to merge.
        moments_size: bytes that second moments may take; narrower blocks of columns are recorded to fit.
        level: report which tensors need importance at this level, before the run.
        cluster: share the chunks among the machines of a Ray cluster; the result is the same.
        save_every: layers between two savings of the state; 0 for never.
        restart: discard the state of an unfinished run.
        force: replace the output if it exists.
        progress: told of each batch, and of what a person should know.

    Raises:
        OutputError: the output exists or cannot be written. PlanError: options that exclude each other.
        QuantmillError: a file cannot be read or belongs to another model, or the model gives NaN or Inf.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import RunOptions, collect_imatrix, write_gguf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     model, text = Path(folder, "model.gguf"), Path(folder, "text.txt")
        ...     _ = write_gguf(model, tiny_llama())
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     made = collect_imatrix(model, Path(folder, "imatrix.gguf"), text=text, run=RunOptions(n_ctx=16))
        >>> made.imatrix.chunk_count, made.imatrix.entries["blk.0.attn_q.weight"].counts
        (9, array([144]))
    """
    from ...imatrix.run_state import remove_state
    from ...imatrix.sums import merged_sums
    from .collecting import CollectOptions, collect

    start = time.monotonic()
    path = None if output is None else Path(output)
    _check_output(path, force)
    legacy = _is_legacy(path, output_format)
    if second_moments:
        _check_second_moments(path, legacy, cluster)
    else:
        unused = {"--moments-width": moments_width is not None, "--moments-size": moments_size != DEFAULT_MOMENTS_SIZE}
        refuse(unused, "--second-moments is not given")
    if moments_width is not None and moments_width % DEFAULT_REFINE_WIDTH:
        raise PlanError(f"{moments_width} is not a multiple of {DEFAULT_REFINE_WIDTH}", where="--moments-width")
    if cluster is not None and run.device != "cpu":
        raise PlanError("cannot be combined with --cluster", where="--device", hint="leave one of them out")
    files = _read(merge, progress)
    _check_moments(files, legacy, second_moments, progress)
    held = next((file.moments.block_width for file in files if file.moments is not None), None)
    run = replace(run, n_ctx=run.n_ctx or DEFAULT_N_CTX)
    sums, datasets, n_ctx = _add(files, run.n_ctx)
    with on_device(run, progress) as on, _state(path) as state:
        options = CollectOptions(
            run=on, process_output=process_output, perplexity=perplexity, level=level, cluster=cluster, restart=restart,
            moments_width=moments_width or held or DEFAULT_REFINE_WIDTH,
            moments_size=moments_size if second_moments else None, save_every=0 if path is None else save_every,
        )  # fmt: skip
        source, of_text = local_path(model, progress=progress), None if text is None else Path(text)
        found = collect(source, of_text, state, files, options, progress)
        moments = [] if legacy else [file.moments for file in files if file.moments is not None]
        if found.collector.moments is not None:
            moments.append(found.collector.moments.moments(found.collector.sums))
        sums, datasets = merged_sums([sums, found.collector.sums]), [*datasets, found.text]
        made = _finish(path, sums, moments, datasets, n_ctx, legacy, expert_prior, force, progress)
        if path is not None:
            remove_state(state)
    return replace(made, perplexity=found.perplexity, dropped_chunks=found.dropped, seconds=time.monotonic() - start)


def merge_imatrices(
    in_files: Sequence[StrPath],
    output: StrPath | None = None,
    *,
    n_ctx: int | None = None,
    output_format: Format | None = None,
    expert_prior: bool = True,
    second_moments: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> CollectedImatrix:
    """Add importance matrices of one model, as if their texts had been one text.

    Args:
        in_files: files of either format.
        output: the file to write; None writes no file.
        n_ctx: tokens in a chunk, which ``.dat`` files do not store; None takes a GGUF file's, or 512.
        output_format, expert_prior, force, progress: see ``collect_imatrix``.
        second_moments: require that every file has them. Without, they are kept where the first file has them.

    Raises:
        FormatError: a file is damaged. QuantmillError: the files belong to different models. PlanError: only some have
            second moments. OutputError: the output exists or cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import merge_imatrices
        >>> from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
        >>> part = Imatrix({"blk.0.attn_q.weight": Entry(np.ones(32, np.float32), np.array([512]))}, ("text",), 1, 512)
        >>> with TemporaryDirectory() as folder:
        ...     parts = [Path(folder, "a.gguf"), Path(folder, "b.gguf")]
        ...     for path in parts:
        ...         write_imatrix(path, part)
        ...     made = merge_imatrices(parts, Path(folder, "both.gguf"))
        >>> made.imatrix.chunk_count, made.imatrix.entries["blk.0.attn_q.weight"].counts
        (2, array([1024]))
    """
    start = time.monotonic()
    path = None if output is None else Path(output)
    _check_output(path, force)
    legacy = _is_legacy(path, output_format)
    files = _read(in_files, progress)
    if not files:
        raise PlanError("there is nothing to merge", where="in_files", hint="name one file at least")
    if second_moments:
        _check_second_moments(path, legacy, None)
    _check_moments(files, legacy, second_moments or files[0].moments is not None, progress)
    sums, datasets, size = _add(files, n_ctx)
    moments = [] if legacy else [file.moments for file in files if file.moments is not None]
    made = _finish(path, sums, moments, datasets, size, legacy, expert_prior, force, progress)
    return replace(made, seconds=time.monotonic() - start)


def imatrix_statistics(path: StrPath, n_ctx: int | None = None) -> list[TensorStatistics]:
    """llama.cpp's statistics of an importance matrix, one row for each tensor; ``imatrix.stats.by_layer`` sums them up.

    Args:
        path: a file of either format.
        n_ctx: tokens in a chunk, for a ``.dat`` file, which does not store it; None for 512.

    Raises:
        FormatError: the file is damaged.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import imatrix_statistics
        >>> from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
        >>> entry = Entry(np.array([512, 1536], np.float32), np.array([512]))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "imatrix.gguf")
        ...     write_imatrix(path, Imatrix({"blk.0.attn_q.weight": entry}, ("text",), 1, 512))
        ...     (row,) = imatrix_statistics(path)
        >>> row.layer, row.tensor, row.smallest, row.largest
        (0, 'attn_q', 1.0, 3.0)
    """
    from ...imatrix.matrix import read_parts
    from ...imatrix.stats import statistics

    sums, _, _ = read_parts([Path(path)], n_ctx)
    return statistics(sums)


def _check_output(path: Path | None, force: bool) -> None:
    if path is None:
        return
    if path.exists() and not force:
        raise OutputError("exists already", path=path, hint="--force replaces it")
    check_writable(path)


def _is_legacy(path: Path | None, output_format: Format | None) -> bool:
    return (output_format or ("" if path is None else ending(path).removeprefix("."))) == "dat"


def _read(paths: Sequence[StrPath], progress: Progress | None) -> list[Imatrix]:
    """Read files of one model, and say where their entries differ."""
    from ...formats.imatrix_file import read_imatrix
    from ...imatrix.matrix import check_same_model

    files = [read_imatrix(Path(path)) for path in paths]
    for line in check_same_model(files):
        note(progress, line, important=True)
    return files


def _add(files: Sequence[Imatrix], n_ctx: int | None) -> tuple[dict[str, Sums], list[str], int]:
    from ...imatrix.matrix import add_files

    return add_files(files, n_ctx) if files else ({}, [], n_ctx or DEFAULT_N_CTX)


@contextmanager
def _state(output: Path | None) -> Iterator[Path]:
    """The folder of a run's state: beside the output, or for none a temporary one."""
    from ...imatrix.run_state import state_folder

    if output is not None:
        yield state_folder(output)
        return
    with TemporaryDirectory(prefix="quantmill-") as folder:
        yield Path(folder)


def _check_second_moments(output: Path | None, legacy: bool, cluster: ClusterOptions | None) -> None:
    where = "--second-moments"
    if output is None:
        raise PlanError("need an output file", where=where, hint="name one")
    if legacy:
        raise PlanError("a .dat file cannot hold second moments", where=where, hint="name a .gguf file with -o")
    if cluster is not None:
        raise PlanError("cannot be combined with --cluster", where=where, hint="leave one of them out")


def _check_moments(files: Sequence[Imatrix], legacy: bool, wanted: bool, progress: Progress | None) -> None:
    """Raise ``PlanError`` where the files' second moments cannot be merged, or are missing."""
    from ...imatrix.merge_moments import check_all_have, check_block_width

    if legacy:
        if any(file.moments is not None for file in files):
            note(progress, "a .dat file cannot hold second moments: they are left out")
        return
    check_all_have(files, wanted)
    if files and files[0].moments is not None:
        check_block_width(files, files[0].moments.block_width)


def _finish(
    path: Path | None, sums: dict[str, Sums], moments: Sequence[Moments], datasets: Sequence[str], n_ctx: int,
    legacy: bool, expert_prior: bool, force: bool, progress: Progress | None,
) -> CollectedImatrix:  # fmt: skip
    """Sums to an importance matrix, written if there is a path for it."""
    from ...formats.imatrix_file import read_imatrix, write_imatrix
    from ...imatrix.matrix import to_imatrix
    from ...imatrix.sums import thin_experts

    thin = thin_experts(sums, _PRIOR_TOKENS)
    prior = _PRIOR_TOKENS if expert_prior else 0
    for line in _thin_lines(thin, expert_prior):
        note(progress, line)
    imatrix = to_imatrix(sums, datasets, n_ctx, legacy=legacy, expert_prior=prior)
    if moments:
        imatrix = _with_moments(imatrix, moments, sums, prior)
    if path is not None:
        write_imatrix(path, imatrix, force=force)
        if moments:
            imatrix = read_imatrix(path)  # the blocks were in the run's state, which goes
    return CollectedImatrix(imatrix, path, thin_experts=thin)


def _with_moments(imatrix: Imatrix, parts: Sequence[Moments], sums: Mapping[str, Sums], prior: int) -> Imatrix:
    from ...imatrix.merge_moments import merged_moments, moments_with_prior

    moments = parts[0] if len(parts) == 1 else merged_moments(parts, sums)
    return replace(imatrix, moments=moments_with_prior(moments, prior) if prior else moments)


def _thin_lines(thin: Mapping[str, Sequence[tuple[int, int]]], prior: bool) -> Iterator[str]:
    """Which experts saw few tokens, and what is done about them."""
    if not thin:
        return
    what = "the layer's mean is used for those that are missing" if prior else "used as they are"
    yield f"experts with fewer than {_PRIOR_TOKENS} tokens ({what}):"
    for name, experts in thin.items():
        listed = ", ".join(f"{expert}: {count}" for expert, count in experts[:_NAMED])
        more = f" and {len(experts) - _NAMED} more" if len(experts) > _NAMED else ""
        yield f"  {name}: {listed}{more}"
